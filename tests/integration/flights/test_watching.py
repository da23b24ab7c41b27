"""What the exporter sees of the flights, and that it is calm while their profile is off."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from infra.local.environment import export_settings
from infra.local.exporter import read_relay
from infra.local.runner import ports
from jobs.flights.buffer import open_buffer
from jobs.flights.relay_metrics import RelayMetrics
from jobs.flights.vertical import VERTICAL, FlightsSettings
from jobs.observability.ledgers import take
from jobs.settings import LOOPBACK
from tests.testkit.flights import add, flight, reject, run_relays, weather


def list_values(metrics: list[Metric]) -> dict[str, float]:
    return {
        sample.name.removeprefix("datastream_flights_") + sample.labels.get("kind", ""): sample.value
        for metric in metrics
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def test_the_series_of_the_relay(flights: Any) -> None:
    (port,) = ports.find_free(1)
    metrics = RelayMetrics(LOOPBACK, port)
    assert list_values(read_relay(port)) == {"relay_up": 0}
    add(flights, [flight(1), flight(2), reject(1), weather()])
    with run_relays(flights) as relays, open_buffer(flights) as buffer:
        by_kind = {relay.route.kind: relay for relay in relays}
        metrics.note_pass(relays, buffer)
        before = list_values(read_relay(port))
        for relay in by_kind.values():
            metrics.count(relay, relay.relay(wait_s=0))
    assert (before["waitingflight"], before["waitingweather"], before["relay_up"]) == (3, 1, 1)
    assert 0 <= before["oldest_secondsflight"] < 60
    after = list_values(read_relay(port))
    assert (after["relayed_totalflight"], after["relayed_totalweather"]) == (3, 1)


@pytest.mark.parametrize(
    "off",
    [
        {"FLIGHTS_REDIS_HOST": "redis.invalid", "FLIGHTS_CASSANDRA_HOST": "cassandra.invalid"},
        {"FLIGHTS_CASSANDRA_HOST": "cassandra.invalid"},
        {"FLIGHTS_TOPIC": "no-such-topic", "FLIGHTS_POSITIONS_TOPIC": "no-such-positions"},
    ],
    ids=["profile", "cassandra", "topics"],
)
def test_what_is_off_gives_no_ledger_and_no_failure(
    flights: Any, off: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (export_settings(flights) | off).items():
        monkeypatch.setenv(name, value)
    answer = take(VERTICAL.ledger, FlightsSettings)
    assert isinstance(answer, str), answer
    assert answer
