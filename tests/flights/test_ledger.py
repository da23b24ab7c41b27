"""The ledger of the flights counts what each system holds, and finds what is lost or doubled in any of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import pytest
import redis

from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from jobs.clients import Systems, make_kafka_config
from jobs.flights import cassandra, database
from jobs.flights.ledger import Ledger, take_ledger
from jobs.flights.trace import trace
from jobs.flights.waiting import wait_until_relayed
from jobs.ledger.verdict import Verdict
from tests.testkit.flights import add, flight, reject, weather
from tests.testkit.kafka import Raw, produce
from tests.testkit.stack import guarded
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    settings: Any = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["kafka", "redis", "mysql", "cassandra", "relay"])
        yield settings


def find_process(settings: Any, name: str) -> psutil.Process:
    return psutil.Process(supervisor.read_states(Paths(settings.datastream_state))[name].pid)


def is_healthy(settings: Any, name: str) -> bool:
    return all(entry.healthy for entry in local_stack(settings).status() if entry.service.name == name)


def ledger(settings: Any) -> Ledger:
    return take_ledger(Systems(settings))


def test_the_ledger_balances_after_each_part_was_killed(settings: Any) -> None:
    """In the order of the file: later tests break what this one leaves balanced."""
    flights = [flight(number) for number in range(300)]
    add(settings, [*flights, *flights[:7], reject(1), weather(), weather("CDG", temperature=3)])
    for name in ("relay", "redis", "mysql", "cassandra"):
        find_process(settings, name).kill()
        until(lambda name=name: is_healthy(settings, name), f"{name} is back", 120)
        add(settings, [flight(1000, status="active", marketing_number=name)])
    wait_until_relayed(settings, 120)

    counted = ledger(settings)
    assert (counted.faults, counted.verdict) == ([], Verdict.BALANCED)
    flights_kind, weather_kind = counted.kinds
    assert flights_kind.counts.collected == {"test": 312}
    assert flights_kind.counts.repeated == {"test": 7}
    assert (flights_kind.before.relayed, flights_kind.dead_letters, flights_kind.distinct) == (304, 1, 304)
    assert (flights_kind.stored, weather_kind.stored, counted.flights) == (304, 2, 301)

    places = [sighting.place for sighting in trace(Systems(settings), flights[0].event_id)]
    assert places == ["flights", "MySQL: flights", "Cassandra: flight_events_by_airport_day"]


def test_an_entry_that_waits_is_in_progress(settings: Any) -> None:
    process = find_process(settings, "relay")
    process.send_signal(signal.SIGSTOP)
    try:
        add(settings, [flight(2000)])
        counted = ledger(settings)
    finally:
        process.send_signal(signal.SIGCONT)
    assert (counted.waiting, counted.faults, counted.verdict) == (1, [], Verdict.IN_PROGRESS)
    wait_until_relayed(settings, 60)
    assert ledger(settings).verdict == Verdict.BALANCED


def test_what_is_lost_or_doubled_is_found(settings: Any) -> None:
    lost, doubled = flight(3000), flight(3001)
    add(settings, [lost, doubled])
    wait_until_relayed(settings, 60)

    with cassandra.connect(settings, cassandra.ADMIN) as session:
        session.execute(
            "DELETE FROM flight_events_by_airport_day WHERE airport = 'CDG' AND day = '2026-01-05' "
            "AND scheduled = '2026-01-05T15:00:00Z' AND flight_id = %s",
            (lost.flight_id,),
        )
    assert ledger(settings).faults == ["1 event_ids of flights are not in Cassandra"]
    assert ledger(settings).lost == 1

    produce(make_kafka_config(settings), settings.flights_topic, [Raw(msgspec.json.encode(doubled), b"key")])
    assert "1 messages of flights are there twice" in ledger(settings).faults
    assert ledger(settings).doubled == 1

    with database.connect(settings, database.ADMIN) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM flights WHERE flight_id = %s", (doubled.flight_id,))
        connection.commit()
    assert "1 flights in MySQL are not in their newest state" in ledger(settings).faults

    process = find_process(settings, "relay")
    process.send_signal(signal.SIGSTOP)
    try:
        add(settings, [flight(3002)])
        with redis.Redis(port=settings.flights_redis_port, password=settings.flights_redis_password) as client:
            client.delete("buffer:flight")
        counted = ledger(settings)
    finally:
        process.send_signal(signal.SIGCONT)
    assert "1 entries of buffer:flight are gone" in counted.faults
    assert counted.verdict == Verdict.LOST_OR_DOUBLED
