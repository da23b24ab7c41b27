"""The relay moves each observation once, wherever it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import pytest
import redis

from infra.local.environment import export_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from jobs.errors import ServiceUnavailableError
from jobs.flights.buffer import Added, open_buffer
from jobs.flights.collect import _collect
from jobs.flights.contract import FIRST_YEAR, LAST_YEAR, MAX_TEXT, Collected, Kind
from jobs.flights.database import READER, connect
from jobs.flights.relay import Position
from jobs.flights.waiting import count_waiting
from jobs.inherited import make_environment
from jobs.kafka.transaction import FencedError
from jobs.settings import ROOT
from tests.testkit.flights import add, flight, reject, relay_all, run_relays, weather
from tests.testkit.kafka import Record, read_all

# Kills itself when a step of the relay begins or has ended.
KILLED = """
import os, signal, sys
import jobs.flights.relay as relay
from jobs.flights.buffer import Buffer
from jobs.flights.stores.mysql_store import MySQL
from jobs.kafka.transaction import Writer
from jobs.settings import load
from jobs.verticals import merge_settings
from tests.testkit.flights import relay_all

step, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"read": Buffer, "write": MySQL, "send": Writer, "trim": Buffer}
calls = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at(function):
    def call(*args, **options):
        global calls
        calls += 1
        if calls == number and when == "before":
            die()
        result = function(*args, **options)
        if calls == number and when == "after":
            die()
        return result
    return call

if step == "commit":
    import jobs.kafka.transaction as transaction
    inner = transaction._call_with_timeout
    def guarded(call, *arguments):
        (at(inner) if "commit" in getattr(call, "__name__", "") else inner)(call, *arguments)
    transaction._call_with_timeout = guarded
else:
    setattr(owner[step], step, at(getattr(owner[step], step)))
relay_all(load(merge_settings()))
sys.exit("The step was never reached.")
"""


def read_topic(settings: Any, topic: str) -> list[Record]:
    return read_all({"bootstrap.servers": settings.bootstrap_servers}, topic)


def read_ids(settings: Any, topic: str) -> Counter[str]:
    return Counter(msgspec.json.decode(record.value)["event_id"] for record in read_topic(settings, topic))


def read_flights(settings: Any) -> dict[str, str]:
    with connect(settings, READER) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT flight_id, event_id FROM flights")
        return {row["flight_id"]: row["event_id"] for row in cursor}


def test_observations_rejects_and_position_arrive_together(flights: Any) -> None:
    inputs = [flight(1), flight(2), reject(1), flight(1, minute=5, status="active"), weather(), reject(2, Kind.WEATHER)]
    add(flights, [*inputs, *inputs])

    assert relay_all(flights) == len(inputs), "repeats are not in the buffer"
    assert read_ids(flights, flights.flights_topic) == Counter(it.event_id for it in (inputs[0], inputs[1], inputs[3]))
    assert read_ids(flights, flights.flights_weather_topic) == Counter([inputs[4].event_id])
    (record,) = read_topic(flights, flights.flights_weather_topic)
    assert record.key == b"DSS"
    letters = sorted(read_topic(flights, flights.flights_dlq_topic), key=lambda letter: letter.error["topic"])
    assert [letter.value for letter in letters] == [b"\xff\x00bad"] * 2, "byte for byte"
    assert letters[0].error["topic"] == "buffer:flight"
    assert letters[0].error["exception.class.name"] == "wrong_type"
    assert letters[0].error["exception.message"] == "é"
    assert letters[0].error["task.id"] == "test"
    assert dict(letters[0].headers or [])["datastream.position"] == b"here:1"
    assert read_flights(flights) == {inputs[1].flight_id: inputs[1].event_id, inputs[3].flight_id: inputs[3].event_id}
    with open_buffer(flights) as buffer:
        counts, waiting, oldest = buffer.count_after(Kind.FLIGHT, "", "0-0")
    assert (waiting, oldest) == (0, None), "relayed entries are deleted"
    assert counts.collected == {"test": 8}
    assert counts.repeated == {"test": 4}
    assert (counts.observed, counts.rejected) == ({"test": 3}, {"test": 1})


def test_an_older_state_does_not_overwrite_a_newer_one(flights: Any) -> None:
    new, old = flight(1, minute=30, status="landed"), flight(1, minute=10, status="active")
    same_moment = [flight(2, status="active"), flight(2, status="cancelled")]
    add(flights, [new, *same_moment])
    relay_all(flights)
    add(flights, [old])
    relay_all(flights)
    newest = max(it.event_id for it in same_moment)
    assert read_flights(flights) == {new.flight_id: new.event_id, same_moment[0].flight_id: newest}
    assert read_ids(flights, flights.flights_topic).total() == 4, "Kafka has every state"


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("step", "when"),
    [("read", "after"), ("write", "before"), ("write", "after"), ("send", "after"), ("commit", "before"),
     ("commit", "after"), ("trim", "after")],
)  # fmt: skip
def test_sigkill_between_two_steps_changes_nothing(flights: Any, step: str, when: str, number: int) -> None:
    flights_seen = [flight(it) for it in range(20)]
    inputs = [*flights_seen, reject(1), weather(), reject(2, Kind.WEATHER)]
    add(flights, inputs)

    environment = make_environment(export_settings(flights))
    command = [sys.executable, "-c", KILLED, step, when, str(number)]
    killed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    relay_all(flights)
    assert read_ids(flights, flights.flights_topic) == Counter(it.event_id for it in flights_seen)
    assert read_ids(flights, flights.flights_weather_topic).total() == 1
    assert len(read_topic(flights, flights.flights_dlq_topic)) == 2
    assert read_flights(flights) == {it.flight_id: it.event_id for it in flights_seen}


def test_a_second_relay_fences_the_first(flights: Any) -> None:
    def relay_late() -> None:
        with run_relays(flights) as first:
            with run_relays(flights) as second:
                add(flights, [flight(1)])
                assert second[0].relay() == 1
            add(flights, [flight(2)])
            first[0].relay()

    with pytest.raises(FencedError, match="a newer worker has taken over"):
        relay_late()
    assert read_ids(flights, flights.flights_topic).total() == 1
    relay_all(flights)
    assert read_ids(flights, flights.flights_topic).total() == 2


def test_a_killed_redis_keeps_what_it_acknowledged(flights: Any) -> None:
    inputs = [flight(it) for it in range(300)]
    add(flights, inputs)
    process = psutil.Process(supervisor.read_states(Paths(flights.datastream_state))["redis"].pid)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    local_stack(flights).up(["redis"])
    relay_all(flights)
    assert read_ids(flights, flights.flights_topic) == Counter(it.event_id for it in inputs)


def test_a_redis_that_does_not_answer_is_named(flights: Any) -> None:
    with pytest.raises(ServiceUnavailableError, match=r"Redis at 127.0.0.1:1 does not answer.*--profile flights"):
        add(flights.model_copy(update={"flights_redis_port": 1}), [flight(1)])


def test_a_buffer_that_lost_its_data_is_a_new_one(flights: Any) -> None:
    add(flights, [flight(1), reject(1)])
    relay_all(flights)
    with redis.Redis(port=flights.flights_redis_port, password=flights.flights_redis_password) as client:
        client.flushall()
        # The clock of the new server is behind: its entries have lower ids than the position.
        with open_buffer(flights) as buffer:
            buffer.add([flight(2)])
        ((_, fields),) = client.xrange("buffer:flight")
        client.delete("buffer:flight")
        client.xadd("buffer:flight", fields, id="1000-0")
    assert relay_all(flights) == 1
    assert read_ids(flights, flights.flights_topic).total() == 2
    position = msgspec.json.decode(read_topic(flights, flights.flights_positions_topic)[-1].value or b"", type=Position)
    assert (position.relayed, position.rejected, position.from_buffer) == (2, 1, 1)


def test_a_running_relay_notices_a_new_buffer_whose_clock_is_behind(flights: Any) -> None:
    add(flights, [flight(1)])
    with run_relays(flights) as relays:
        assert relays[0].relay() == 1
        with redis.Redis(port=flights.flights_redis_port, password=flights.flights_redis_password) as client:
            client.flushall()
            add(flights, [flight(2)])
            ((_, fields),) = client.xrange("buffer:flight")
            client.delete("buffer:flight")
            client.xadd("buffer:flight", fields, id="1000-0")
        assert count_waiting(flights) == 1
        assert relays[0].relay() == 1
    assert count_waiting(flights) == 0
    assert read_ids(flights, flights.flights_topic).total() == 2


def test_what_a_source_gave_before_it_failed_is_kept(flights: Any) -> None:
    def fail_later() -> Iterator[Collected]:
        yield flight(1)
        yield reject(1)
        raise ServiceUnavailableError("the source is gone")

    added = Added()
    with pytest.raises(ServiceUnavailableError, match="the source is gone"):
        _collect(flights, fail_later(), added)
    assert (added.observed, added.rejected) == (1, 1)
    assert count_waiting(flights) == 2


def test_a_full_buffer_refuses_and_keeps(flights: Any) -> None:
    with redis.Redis(port=flights.flights_redis_port, password=flights.flights_redis_password) as client:
        limit = client.config_get("maxmemory")["maxmemory"]
        add(flights, [flight(1)])
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(ServiceUnavailableError, match=r"Redis at .* is full.*is it running"):
                add(flights, [flight(2)])
        finally:
            client.config_set("maxmemory", limit)
    relay_all(flights)
    add(flights, [flight(2)])
    relay_all(flights)
    assert read_ids(flights, flights.flights_topic).total() == 2


def test_an_entry_of_another_version_does_not_hold_up_the_next(flights: Any) -> None:
    add(flights, [flight(1)])
    with redis.Redis(port=flights.flights_redis_port, password=flights.flights_redis_password) as client:
        client.xadd("buffer:flight", {b"value": b'{"later": 1}', b"another": b"field"})
    add(flights, [flight(2)])
    assert relay_all(flights) == 3
    assert read_ids(flights, flights.flights_topic).total() == 2
    (letter,) = read_topic(flights, flights.flights_dlq_topic)
    assert letter.value == b'{"later": 1}'
    assert letter.error["exception.class.name"] == "invalid_message"


def test_mysql_takes_whatever_the_contract_accepts(flights: Any) -> None:
    longest = "é" * MAX_TEXT
    edges = [
        flight(
            "9999Z", flight_date=f"{year}-{day}", status="incident",
            scheduled_departure=f"{year}-{day}T00:00:00.999999Z", scheduled_arrival=f"{year}-{day}T23:59:59.999999Z",
            marketing_number=longest, departure_local=longest, departure_delay_min=-1440, arrival_delay_min=10080,
        )
        for year, day in ((FIRST_YEAR, "01-01"), (LAST_YEAR, "12-31"))
    ]  # fmt: skip
    poles = [weather(lat=-90, lon=180, condition=longest, description=longest), weather("CDG", lat=90, lon=-180)]
    add(flights, [*edges, *poles])
    assert relay_all(flights) == 4
    assert read_flights(flights) == {it.flight_id: it.event_id for it in edges}
