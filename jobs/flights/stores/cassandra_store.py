"""Cassandra: every observation, by place or airport and day (infra/cassandra/schema.cql).

No lightweight transactions: a row's key has the id of the observation, so a repeat writes the same row again. Nulls
are left out of the series, because each would be a tombstone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import UNSET_VALUE, PreparedStatement

from jobs.flights.contract import TIMES, Flight, FlightContent, Observation, Weather, WeatherContent
from jobs.flights.stores.mysql_store import to_datetime

_CONCURRENCY = 32
_FLIGHT_CONTENT = tuple(name for name in FlightContent.__struct_fields__ if name != "scheduled_departure")
_WEATHER = ("day", *WeatherContent.__struct_fields__, "event_id", "source")
_FLIGHT = ("airport", "day", "scheduled", *_FLIGHT_CONTENT, "flight_id", "event_id", "source")
_LATEST = ("place_id", "observed_at", "event_id", "units", "temperature", "condition", "wind_speed", "aqi")

Row = Mapping[str, Any]


class Cassandra:
    """The tables of the keyspace `flights`.

    Args:
        session: of `jobs.flights.cassandra.connect`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._add_weather = session.prepare(_insert("weather_by_place_day", _WEATHER))
        self._add_flight = session.prepare(_insert("flight_events_by_airport_day", _FLIGHT))
        # The time of the write is that of the observation: a late repeat changes nothing.
        self._set_latest = session.prepare(_insert("latest_by_place", _LATEST) + " USING TIMESTAMP ?")

    def write(self, observations: Sequence[Observation]) -> None:
        """Write observations."""
        weather = [_make_weather_row(it) for it in observations if isinstance(it, Weather)]
        flights = [_make_flight_row(it) for it in observations if isinstance(it, Flight)]
        self._execute(self._add_weather, (_list_values(row, _WEATHER) for row in weather))
        self._execute(self._add_flight, (_list_values(row, _FLIGHT) for row in flights))
        # With nulls: a value of an older observation must not show through.
        latest = ([*(row[name] for name in _LATEST), _to_microseconds(row["observed_at"])] for row in weather)
        self._execute(self._set_latest, latest)

    def _execute(self, statement: PreparedStatement, rows: Iterable[Sequence[Any]]) -> None:
        arguments = list(rows)
        if not arguments:
            return
        execute_concurrent_with_args(
            self._session, statement, arguments, concurrency=_CONCURRENCY, raise_on_first_error=True
        )


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608


def _make_weather_row(weather: Weather) -> Row:
    row = _make_row(weather)
    return {**row, "day": _to_day(row["observed_at"])}


def _make_flight_row(flight: Flight) -> Row:
    row = _make_row(flight)
    scheduled = row["scheduled_departure"]
    return {**row, "airport": flight.departure_airport, "day": _to_day(scheduled), "scheduled": scheduled}


def _make_row(it: Observation) -> dict[str, Any]:
    row = {name: getattr(it, name) for name in it.__struct_fields__}
    row |= {name: to_datetime(row[name]) for name in TIMES if name in row}
    return {**row, "event_id": UUID(it.event_id)}


def _list_values(row: Row, columns: Sequence[str]) -> list[Any]:
    return [UNSET_VALUE if row[name] is None else row[name] for name in columns]


def _to_day(moment: datetime) -> date:
    return moment.date()


def _to_microseconds(moment: datetime) -> int:
    # Exact, unlike timestamp() * 1e6.
    elapsed = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return elapsed.days * 86_400_000_000 + elapsed.seconds * 1_000_000 + elapsed.microseconds
