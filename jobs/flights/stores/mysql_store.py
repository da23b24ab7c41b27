"""MySQL: the newest state of each flight, and the airlines and places that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jobs.flights.contract import TIMES, Flight, Observation, Weather
from jobs.flights.database import Connection

_FLIGHT = (
    "flight_id", "airline", "number", "marketing_number", "flight_date", "departure_airport",
    "arrival_airport", "status", "scheduled_departure", "estimated_departure", "actual_departure", "scheduled_arrival",
    "estimated_arrival", "actual_arrival", "departure_delay_min", "arrival_delay_min", "source",
    "event_id", "observed_at",
)  # fmt: skip
_PLACE = ("place_id", "lat", "lon", "observed_at")


def _upsert(table: str, columns: Sequence[str], newer: str) -> str:
    """A statement that overwrites a row with a newer one.

    Args:
        columns: those that `newer` reads come last, because assignments run from left to right.
        newer: the condition. MariaDB has no row alias, so it reads VALUES().
    """
    marks = ", ".join(["%s"] * len(columns))
    changes = ", ".join(f"{name} = IF({newer}, VALUES({name}), {name})" for name in columns)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON DUPLICATE KEY UPDATE {changes}"  # noqa: S608


# Two states of one moment, from two sources, have an order too: the sequence of writes does not matter.
_UPSERT_FLIGHT = _upsert(
    "flights",
    _FLIGHT,
    "VALUES(observed_at) > observed_at OR (VALUES(observed_at) = observed_at AND VALUES(event_id) > event_id)",
)
_UPSERT_PLACE = _upsert("places", _PLACE, "VALUES(observed_at) > observed_at")
_ADD_AIRLINE = "INSERT IGNORE INTO airlines (iata, first_seen_at) VALUES (%s, %s)"


class MySQL:
    """The tables `flights`, `airlines` and `places`.

    Args:
        connection: of `jobs.flights.database.connect` as WRITER.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, observations: Sequence[Observation]) -> None:
        """Write observations in one transaction."""
        flights = [it for it in observations if isinstance(it, Flight)]
        places = [it for it in observations if isinstance(it, Weather)]
        with self._connection.cursor() as cursor:
            cursor.executemany(_UPSERT_FLIGHT, [_list_values(it, _FLIGHT) for it in flights])
            cursor.executemany(_ADD_AIRLINE, [(it.airline, to_datetime(it.observed_at)) for it in flights])
            cursor.executemany(_UPSERT_PLACE, [_list_values(it, _PLACE) for it in places])
        self._connection.commit()


def _list_values(it: Observation, columns: Sequence[str]) -> list[Any]:
    return [to_datetime(value) if name in TIMES else value for name in columns for value in [getattr(it, name)]]


def to_datetime(text: str | None) -> datetime | None:
    """The UTC of a time of the contract, without an offset, as MySQL's and Cassandra's drivers take it."""
    return None if text is None else datetime.fromisoformat(text.removesuffix("Z"))
