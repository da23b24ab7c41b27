"""The exporter sees the flights' stores, relay and ledger, and a store that hangs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from jobs.clients import make_local_session
from jobs.settings import LOOPBACK
from tests.testkit.flights import add, flight, reject, weather
from tests.testkit.stack import guarded
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(300)

STORES = ("redis", "mysql", "cassandra")


@pytest.fixture
def settings() -> Iterator[Any]:
    settings: Any = isolated_settings(observability_ledger_minutes=0.1)
    with guarded(settings.datastream_state):
        local_stack(settings).up(["kafka", *STORES, "relay", "exporter"])
        yield settings


def read_series(settings: Any) -> list[str]:
    url = f"http://{LOOPBACK}:{settings.observability_exporter_port}/metrics"
    return make_local_session().get(url, timeout=30).text.splitlines()


def test_what_the_exporter_sees(settings: Any) -> None:
    add(settings, [flight(1), flight(2), reject(1), weather()])
    expected = {
        *(f'datastream_probe_success{{probe="{name}"}} 1.0' for name in (*STORES, "relay")),
        "datastream_flights_relay_up 1.0",
        'datastream_flights_relayed_total{kind="flight"} 3.0',
        'datastream_flights_waiting{kind="flight"} 0.0',
        'datastream_ledger_verdict{vertical="flights"} 0.0',
        'datastream_ledger_failed{vertical="flights"} 0.0',
        'datastream_ledger_messages{figure="flights: collected, relayed",vertical="flights"} 2.0',
        'datastream_ledger_messages{figure="weather: collected, relayed",vertical="flights"} 1.0',
    }
    until(lambda: expected <= set(read_series(settings)), "stores, relay and ledger are seen", 60)

    server = psutil.Process(supervisor.read_states(Paths(settings.datastream_state))["mysql"].pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        series = set(read_series(settings))
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    assert 'datastream_probe_success{probe="mysql"} 0.0' in series
    assert 'datastream_probe_success{probe="redis"} 1.0' in series
    up = 'datastream_probe_success{probe="mysql"} 1.0'
    until(lambda: up in read_series(settings), "MySQL is seen again")
