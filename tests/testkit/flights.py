"""Observations of flights and weather, and a relay with the stores that `make test` has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from jobs.flights.buffer import open_buffer
from jobs.flights.contract import Collected, Flight, Kind, Origin, Reject, Weather, make_flight, make_weather
from jobs.flights.database import WRITER, connect
from jobs.flights.relay import Relay, list_routes, open_relay
from jobs.flights.stores.mysql_store import MySQL

ORIGIN = Origin("test", "here:1", "2026-01-05T12:00:00.000000Z")


def flight(number: int | str = 718, minute: int = 0, **changes: Any) -> Flight:
    """A flight, observed `minute` minutes after noon."""
    content = {
        "observed_at": f"2026-01-05T12:{minute:02}:00Z",
        "airline": "AF",
        "number": str(number),
        "flight_date": "2026-01-05",
        "departure_airport": "CDG",
        "arrival_airport": "DSS",
        "status": "scheduled",
        "scheduled_departure": "2026-01-05T16:00:00+01:00",
        "scheduled_arrival": "2026-01-05T21:00:00Z",
    }
    return make_flight(content | changes, ORIGIN)


def weather(place: str = "DSS", minute: int = 0, **changes: Any) -> Weather:
    """The weather at a place, observed `minute` minutes after noon."""
    content = {
        "observed_at": f"2026-01-05T12:{minute:02}:00Z",
        "place_id": place,
        "lat": 14.67,
        "lon": -17.07,
        "units": "metric",
        "temperature": 28.5,
        "wind_speed": 5,
    }
    return make_weather(content | changes, ORIGIN)


def reject(number: int, kind: Kind = Kind.FLIGHT) -> Reject:
    return Reject(kind, msgspec.structs.replace(ORIGIN, position=f"here:{number}"), "wrong_type", "é", b"\xff\x00bad")


def add(settings: Any, inputs: Sequence[Collected]) -> None:
    with open_buffer(settings) as buffer:
        buffer.add(inputs)


@contextmanager
def run_relays(settings: Any) -> Iterator[list[Relay]]:
    """The relays of all kinds, with MySQL as their only store."""
    with ExitStack() as stack:
        buffer = stack.enter_context(open_buffer(settings))
        stores = [MySQL(stack.enter_context(connect(settings, WRITER)))]
        yield [stack.enter_context(open_relay(settings, route, buffer, stores)) for route in list_routes(settings)]


def relay_all(settings: Any) -> int:
    """Relay what waits; returns the number of entries."""
    with run_relays(settings) as relays:
        done = 0
        while moved := sum(relay.relay(wait_s=0) for relay in relays):
            done += moved
        return done
