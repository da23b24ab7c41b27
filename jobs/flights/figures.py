"""The figures of the page, from the newest flights in MySQL and the weather of their days in Cassandra.

All times are naive and in UTC, as both drivers return them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from jobs.flights import cassandra, database
from jobs.flights.airports import Airport
from jobs.flights.units import measure_delay_min, to_celsius, to_metres_per_second
from jobs.flights.vertical import FlightsSettings

MAX_FLIGHTS = 50_000  # a month of 1,600 a day
LATE_MIN = 15
WEATHER_WITHIN = timedelta(minutes=90)
WIND_STEP = 3  # m/s
WIND_BINS = 8  # the last one has no end
_CONCURRENCY = 32

_FLIGHTS = (
    "SELECT departure_airport, status, scheduled_departure, estimated_departure, actual_departure, "  # noqa: S608
    f"departure_delay_min, source FROM flights ORDER BY scheduled_departure DESC LIMIT {MAX_FLIGHTS}"
)
_AIRPORTS = f"SELECT {', '.join(Airport.__struct_fields__)} FROM airports"  # noqa: S608
_LATEST = "SELECT place_id, observed_at, units, temperature, condition, wind_speed, aqi FROM latest_by_place"
_WEATHER = (
    "SELECT place_id, observed_at, units, wind_speed, source FROM weather_by_place_day WHERE place_id = ? AND day = ?"
)


class Departure(msgspec.Struct, frozen=True):
    """A flight; `delay_min` is None if it is not known yet, or if the flight is cancelled."""

    airport: str
    status: str
    scheduled: datetime
    delay_min: float | None
    source: str


class Wind(msgspec.Struct, frozen=True):
    """An observation of the weather, with its wind in m/s."""

    place: str
    observed_at: datetime
    speed: float | None
    source: str


class Latest(msgspec.Struct, frozen=True):
    """The newest weather at a place: °C, m/s, and OpenWeather's index of air quality (1 good to 5 very poor)."""

    airport: Airport
    observed_at: datetime
    temperature: float | None
    wind_speed: float | None
    condition: str | None
    aqi: int | None


class Delays(msgspec.Struct, frozen=True):
    """The delays at departure of some flights.

    Attributes:
        flights: all of them.
        known: those with a delay; late: those with more than LATE_MIN.
        mean_min: None if no delay is known.
    """

    flights: int = 0
    known: int = 0
    late: int = 0
    mean_min: float | None = None

    @property
    def late_share(self) -> float | None:
        return self.late / self.known if self.known else None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows.

    Attributes:
        first, last: the scheduled departures that the flights cover.
        delays: of all flights; by_airport: by departure airport, most flights first.
        by_wind: delays by number of the bin; bin n starts at n * WIND_STEP m/s.
        statuses: flights by status.
        observations: of the weather, at the airports and on the days of the flights.
        fake_flights, fake_observations: those whose source marks them as fake.
        latest: by IATA code.
    """

    first: datetime | None = None
    last: datetime | None = None
    delays: Delays = Delays()
    by_airport: Mapping[Airport, Delays] = msgspec.field(default_factory=dict)
    by_wind: Mapping[int, Delays] = msgspec.field(default_factory=dict)
    statuses: Mapping[str, int] = msgspec.field(default_factory=dict)
    observations: int = 0
    fake_flights: int = 0
    fake_observations: int = 0
    latest: Sequence[Latest] = ()


def read_figures(settings: FlightsSettings) -> Figures:
    """Read the stores.

    Raises:
        ConfigurationError: a store rejects its password.
        ServiceUnavailableError: a store does not answer.
    """
    with database.connect(settings, database.READER) as connection, connection.cursor() as cursor:
        cursor.execute(_AIRPORTS)
        airports = {row["iata"]: msgspec.convert(row, Airport) for row in cursor.fetchall()}
        cursor.execute(_FLIGHTS)
        departures = [_make_departure(row) for row in cursor.fetchall()]
    with cassandra.connect(settings) as session:
        latest = [_make_latest(row, airports) for row in session.execute(_LATEST)]
        days = {(it.airport, day) for it in departures for day in _list_days(it.scheduled)}
        days |= {(it.airport.iata, it.observed_at.date()) for it in latest}
        winds = _read_winds(session, sorted(days))
    return summarise(departures, winds, latest, airports)


def summarise(
    departures: Sequence[Departure], winds: Sequence[Wind], latest: Iterable[Latest], airports: Mapping[str, Airport]
) -> Figures:
    """Compute the figures.

    Args:
        airports: by IATA code; at least those of the departures.
    """
    by_airport: dict[str, list[Departure]] = defaultdict(list)
    for departure in departures:
        by_airport[departure.airport].append(departure)
    measured = {airports[iata]: _measure(flights) for iata, flights in by_airport.items()}
    times = [departure.scheduled for departure in departures]
    return Figures(
        first=min(times, default=None),
        last=max(times, default=None),
        delays=_measure(departures),
        by_airport=dict(sorted(measured.items(), key=lambda item: (-item[1].flights, item[0].iata))),
        by_wind=_measure_by_wind(departures, winds),
        statuses=Counter(departure.status for departure in departures),
        observations=len(winds),
        fake_flights=sum(is_fake(departure.source) for departure in departures),
        fake_observations=sum(is_fake(wind.source) for wind in winds),
        latest=sorted(latest, key=lambda it: it.airport.iata),
    )


def is_fake(source: str) -> bool:
    """Whether rows of a source are marked as fake: those of the generators and of the stand-in APIs."""
    return source == "faker" or source.startswith("fake:")


def _measure(departures: Sequence[Departure]) -> Delays:
    delays = [departure.delay_min for departure in departures if departure.delay_min is not None]
    mean = sum(delays) / len(delays) if delays else None
    return Delays(len(departures), len(delays), sum(delay > LATE_MIN for delay in delays), mean)


def _measure_by_wind(departures: Iterable[Departure], winds: Iterable[Wind]) -> dict[int, Delays]:
    """The delays by bin. A flight has the wind at its airport next to its scheduled departure, if there is one."""
    series: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for wind in winds:
        if wind.speed is not None:
            series[wind.place].append((wind.observed_at, wind.speed))
    for observed in series.values():
        observed.sort()
    bins: dict[int, list[Departure]] = defaultdict(list)
    for departure in departures:
        speed = _find_nearest(series.get(departure.airport, []), departure.scheduled)
        if speed is not None and departure.delay_min is not None:
            bins[min(WIND_BINS - 1, int(speed // WIND_STEP))].append(departure)
    return {number: _measure(bins[number]) for number in sorted(bins)}


def _find_nearest(observed: Sequence[tuple[datetime, float]], moment: datetime) -> float | None:
    """The speed that was observed nearest in time; of two, the earlier."""
    position = bisect_left(observed, (moment,))
    around = observed[max(0, position - 1) : position + 1]
    time, speed = min(around, key=lambda it: abs(it[0] - moment), default=(None, None))
    return speed if time is not None and abs(time - moment) <= WEATHER_WITHIN else None


def _list_days(moment: datetime) -> set[date]:
    """The days whose weather may be next to a moment."""
    return {(moment - WEATHER_WITHIN).date(), (moment + WEATHER_WITHIN).date()}


def _make_departure(row: Mapping[str, Any]) -> Departure:
    scheduled = row["scheduled_departure"]
    happened = row["actual_departure"] or row["estimated_departure"]
    delay = measure_delay_min(row["departure_delay_min"], scheduled, happened)
    is_cancelled = row["status"] == "cancelled"
    return Departure(row["departure_airport"], row["status"], scheduled, None if is_cancelled else delay, row["source"])


def _make_latest(row: Any, airports: Mapping[str, Airport]) -> Latest:
    temperature = None if row.temperature is None else to_celsius(row.temperature, row.units)
    return Latest(airports[row.place_id], row.observed_at, temperature, _convert_wind(row), row.condition, row.aqi)


def _convert_wind(row: Any) -> float | None:
    return None if row.wind_speed is None else to_metres_per_second(row.wind_speed, row.units)


def _read_winds(session: Session, days: Sequence[tuple[str, date]]) -> list[Wind]:
    results = execute_concurrent_with_args(
        session, session.prepare(_WEATHER), days, concurrency=_CONCURRENCY, raise_on_first_error=True
    )
    return [Wind(row.place_id, row.observed_at, _convert_wind(row), row.source) for _, rows in results for row in rows]
