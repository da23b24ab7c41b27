"""What the generators of the flights draw, and what the contract says to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

import generate_flights
import generate_weather
from flight_lines import Line, Options, add_faults
from flight_weather import AIRPORTS, BAD, read_airports, severity_at
from jobs.flights.contract import Flight, Kind, Reject, Weather
from jobs.flights.sources.json_lines import read_json_lines
from jobs.settings import ROOT

START = datetime(2026, 11, 28, 12, tzinfo=UTC)
COUNT = 2000
FOLDER = ROOT / "producer" / "flights"
PLACES = read_airports(AIRPORTS)
DRAWN: dict[Kind, tuple[Callable[..., Iterator[dict[str, Any]]], Any]] = {
    Kind.FLIGHT: (generate_flights.draw_flights, generate_flights.FAULTS),
    Kind.WEATHER: (generate_weather.draw_weather, generate_weather.FAULTS),
}
SCRIPTS = {Kind.FLIGHT: "generate_flights.py", Kind.WEATHER: "generate_weather.py"}
KINDS = pytest.mark.parametrize("kind", Kind)


@cache
def draw(kind: Kind, seed: int = 1, faulty: float = 0.1, duplicates: float = 0.05) -> list[Line]:
    step = timedelta(hours=24) / COUNT
    options = Options(COUNT, 0, seed, faulty, duplicates, START, step)
    function, faults = DRAWN[kind]
    return list(islice(add_faults(function(PLACES, options), faults, options), COUNT))


def read(kind: Kind, lines: list[Line]) -> list[Flight | Weather | Reject]:
    return list(read_json_lines(BytesIO(b"".join(line.value + b"\n" for line in lines)), kind, "generator"))


def command(kind: Kind, *options: str) -> list[str | Path]:
    return [sys.executable, FOLDER / SCRIPTS[kind], *options]


@KINDS
def test_the_contract_rejects_each_fault_for_its_reason_and_nothing_else(kind: Kind) -> None:
    lines = draw(kind)
    items = read(kind, lines)
    assert [item.reason if isinstance(item, Reject) else None for item in items] == [line.fault for line in lines]
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [reject.value for reject in rejects] == [line.value for line in lines if line.fault]
    faults = Counter(label.partition("/")[0] for label in DRAWN[kind][1])
    rounds = len(rejects) // sum(faults.values())
    assert rounds > 5
    assert all(Counter(reject.reason for reject in rejects)[name] >= rounds * each for name, each in faults.items())


@KINDS
def test_repeats_have_the_same_event_id(kind: Kind) -> None:
    lines = draw(kind, faulty=0)
    ids = [item.event_id for item in read(kind, lines)]
    assert len(set(ids)) == len({line.value for line in lines}) < COUNT
    assert 0.03 < 1 - len(set(ids)) / COUNT < 0.07


@KINDS
def test_a_seed_and_a_start_decide_every_line(kind: Kind) -> None:
    assert draw.__wrapped__(kind) == draw(kind) != draw(kind, seed=2)


@KINDS
def test_times_are_spread_over_the_history(kind: Kind) -> None:
    times = [json.loads(line.value)["observed_at"] for line in draw(kind, faulty=0, duplicates=0)]
    assert times == sorted(times)
    assert times[0] == "2026-11-28T12:00:00.000000Z"
    assert times[-1].startswith("2026-11-29T11:59:")


def test_a_flight_goes_from_scheduled_to_landed_or_is_cancelled() -> None:
    seen: dict[str, list[Flight]] = {}
    for item in read(Kind.FLIGHT, draw(Kind.FLIGHT, faulty=0, duplicates=0)):
        assert isinstance(item, Flight)
        seen.setdefault(item.flight_id, []).append(item)
    ways = Counter(tuple(dict.fromkeys(flight.status for flight in flights)) for flights in seen.values())
    assert {("scheduled", "active"), ("scheduled", "active", "landed"), ("cancelled",)} < ways.keys()
    order = ("scheduled", "active", "landed", "cancelled")
    assert all(list(way) == sorted(way, key=order.index) for way in ways)
    assert all("cancelled" not in way or not {"active", "landed"} & {*way} for way in ways)
    assert COUNT / len(seen) > 2, "several observations of one flight"
    for flights in seen.values():
        assert len({(flight.scheduled_departure, flight.arrival_airport) for flight in flights}) == 1
    landed = [flight for flights in seen.values() for flight in flights if flight.status == "landed"]
    for flight in landed:
        left, planned = map(datetime.fromisoformat, (flight.actual_departure or "", flight.scheduled_departure))
        assert left - planned == timedelta(minutes=flight.departure_delay_min or 0)
        assert (flight.actual_arrival or "") <= flight.observed_at


def test_flights_are_late_where_the_weather_is_bad() -> None:
    weather = read(Kind.WEATHER, draw(Kind.WEATHER, seed=8, faulty=0))
    bad = {(item.place_id, item.observed_at[:13]) for item in weather if isinstance(item, Weather) and is_bad(item)}
    known = {(item.place_id, item.observed_at[:13]) for item in weather if isinstance(item, Weather)}
    delays: dict[bool, list[float]] = {True: [], False: []}
    for item in read(Kind.FLIGHT, draw(Kind.FLIGHT, seed=9, faulty=0)):
        assert isinstance(item, Flight)
        place = (item.departure_airport, item.scheduled_departure[:13])
        if place in known and item.departure_delay_min is not None:
            delays[place in bad].append(item.departure_delay_min)
    assert min(map(len, delays.values())) > 50
    assert mean(delays[True]) > 4 * mean(delays[False])


def is_bad(item: Weather) -> bool:
    return item.description in ("thunderstorm with heavy rain", "heavy intensity rain") or item.condition == "Snow"


def test_bad_weather_comes_and_goes() -> None:
    hours = [START + timedelta(hours=hour) for hour in range(500)]
    severities = [[severity_at(place.iata, hour) for hour in hours] for place in PLACES]
    assert all(0 <= value <= 1 for values in severities for value in values)
    assert 0.1 < mean(value >= BAD for values in severities for value in values) < 0.3
    assert max(abs(a - b) for values in severities for a, b in pairwise(values)) < 0.3


@KINDS
def test_the_script_prints_what_the_options_say(kind: Kind) -> None:
    options = ("--count", "300", "--rate", "0", "--seed", "3", "--start", "2026-11-28T12:00:00Z", "--history", "24")
    run = subprocess.run(command(kind, *options), capture_output=True, check=True, timeout=60)
    drawn = DRAWN[kind][0](PLACES, Options(300, 0, 3, 0, 0, START, timedelta(hours=24) / 300))
    assert list(map(json.loads, run.stdout.splitlines())) == list(islice(drawn, 300))
    assert run.stderr == b""


@KINDS
def test_the_script_ends_quietly(kind: Kind) -> None:
    with subprocess.Popen(command(kind), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as interrupted:
        assert interrupted.stdout is not None
        json.loads(interrupted.stdout.readline())
        os.kill(interrupted.pid, signal.SIGINT)
        _, errors = interrupted.communicate(timeout=30)
    assert (interrupted.returncode, errors) == (0, b"")
    with subprocess.Popen(command(kind, "--rate", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as closed:
        assert closed.stdout is not None
        assert closed.stderr is not None
        closed.stdout.readline()
        closed.stdout.close()
        assert closed.wait(timeout=30) == 0
        assert closed.stderr.read() == b""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--history", "24"), "needs --count"),
        (("--start", "2026-11-28T12:00:00"), "needs an offset"),
        (("--start", "yesterday"), "Invalid isoformat"),
    ],
)
def test_wrong_options_are_named(options: tuple[str, ...], text: str) -> None:
    run = subprocess.run(command(Kind.FLIGHT, *options), capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert text in run.stderr
