"""Generates observations of flights as JSON lines: `python generate_flights.py --help`.

A flight is seen several times on its way: scheduled, active, landed, or cancelled. The departure is late when the
weather at its airport is bad.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from faker import Faker
from faker.providers import BaseProvider

from flight_lines import (
    JSON_FAULTS,
    Content,
    Fault,
    Options,
    change,
    make_app,
    omit,
)
from flight_weather import BAD, Airport, format_time, severity_at

# IATA codes of airlines that fly between these airports.
AIRLINES = ("AF", "BA", "LH", "KL", "IB", "TP", "SN", "TK", "EK", "SQ", "NH", "DL", "AC", "LA", "QF", "ET", "AT", "HC")
SPEED_KMH, TAXI = 820, timedelta(minutes=35)
EARTH_KM = 6371
PER_HOUR = 40  # flights of all airports; the hour and the place in it make the flight's number
ANNOUNCED, KEPT = timedelta(hours=4), timedelta(hours=2)  # seen before the departure, and after the arrival
MAX_FLIGHT_HOURS = 30
KNOWN = timedelta(hours=2)  # before the departure, a delay is announced
MINUTE = timedelta(minutes=1)


class Flight(NamedTuple):
    """A flight with all that will become of it."""

    airline: str
    number: str
    origin: Airport
    destination: Airport
    departure: datetime
    arrival: datetime
    departure_delay: timedelta
    arrival_delay: timedelta
    is_cancelled: bool


class FlightProvider(BaseProvider):
    """Flights by the weather at their departure."""

    def delay(self, severity: float) -> timedelta:
        """A few minutes, and up to hours in bad weather."""
        mean = 4.0 if severity < BAD else 30 + 90 * (severity - BAD) / (1 - BAD)
        return timedelta(minutes=min(480, round(self.generator.random.expovariate(1 / mean))))

    def cancellation(self, severity: float) -> bool:
        chance: float = self.generator.random.random()
        return chance < (0.005 if severity < BAD else 0.08)


def _measure_km(start: Airport, end: Airport) -> float:
    """The length of the great circle, by the haversine formula."""
    lat1, lat2 = math.radians(start.lat), math.radians(end.lat)
    half = math.sin((lat2 - lat1) / 2) ** 2
    half += math.cos(lat1) * math.cos(lat2) * math.sin(math.radians(end.lon - start.lon) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(half))


class Timetable:
    """The flights that depart in an hour. They depend on nothing but the seed and the hour."""

    def __init__(self, airports: Sequence[Airport], seed: int) -> None:
        self._airports, self._seed = airports, seed
        self._fake = Faker()
        self._fake.add_provider(FlightProvider)
        self.list_departures = lru_cache(maxsize=100)(self._list_departures)

    def _list_departures(self, hour: int) -> list[Flight]:
        """
        Args:
            hour: hours since 1970 in UTC.
        """
        fake = self._fake
        flights = []
        for place in range(PER_HOUR):
            # The same every day: airline, number and route.
            daily = random.Random(f"{self._seed}/route/{hour % 24}/{place}")
            airline = daily.choice(AIRLINES)
            origin, destination = daily.sample(self._airports, 2)
            departure = datetime.fromtimestamp(hour * 3600, UTC) + 5 * MINUTE * daily.randrange(12)
            flown = timedelta(hours=_measure_km(origin, destination) / SPEED_KMH) + TAXI
            arrival = departure + 5 * MINUTE * math.ceil(flown / (5 * MINUTE))
            fake.seed_instance(f"{self._seed}/flight/{hour}/{place}")
            severity = severity_at(origin.iata, departure)
            delay = fake.delay(severity)
            # Up to 15 minutes are made up for in the air.
            arrival_delay = max(-10 * MINUTE, delay - timedelta(minutes=fake.random_int(0, 15)))
            flights.append(
                Flight(
                    airline, str(100 + hour % 24 * PER_HOUR + place), origin, destination, departure, arrival, delay,
                    arrival_delay, fake.cancellation(severity),
                )
            )  # fmt: skip
        return flights


def draw_flights(airports: Sequence[Airport], options: Options) -> Iterator[Content]:
    """Endless observations of flights that are announced, flying or just landed."""
    timetable = Timetable(airports, options.seed)
    fake = Faker()
    fake.seed_instance(options.seed)
    for moment in options.list_times():
        hour = int(moment.timestamp() // 3600)
        while True:
            departs = hour + fake.random_int(-MAX_FLIGHT_HOURS, int(ANNOUNCED / timedelta(hours=1)))
            flight = fake.random_element(timetable.list_departures(departs))
            if flight.departure - ANNOUNCED <= moment <= flight.arrival + flight.arrival_delay + KEPT:
                break
        yield observe(flight, moment)


def observe(flight: Flight, moment: datetime) -> Content:
    """What a source says about a flight at a moment."""
    departed, landed = flight.departure + flight.departure_delay, flight.arrival + flight.arrival_delay
    content: Content = {
        "observed_at": format_time(moment),
        "airline": flight.airline,
        "number": flight.number,
        "flight_date": flight.departure.astimezone(ZoneInfo(flight.origin.timezone)).date().isoformat(),
        "departure_airport": flight.origin.iata,
        "arrival_airport": flight.destination.iata,
        "status": "scheduled",
        "scheduled_departure": format_time(flight.departure),
        "scheduled_arrival": format_time(flight.arrival),
    }
    if moment >= flight.departure - KNOWN:
        if flight.is_cancelled:
            return content | {"status": "cancelled"}
        content |= {
            "estimated_departure": format_time(departed),
            "estimated_arrival": format_time(landed),
            "departure_delay_min": flight.departure_delay / MINUTE,
        }
    if moment >= departed:
        content |= {"status": "active", "actual_departure": format_time(departed)}
    if moment >= landed:
        content |= {
            "status": "landed",
            "actual_arrival": format_time(landed),
            "arrival_delay_min": flight.arrival_delay / MINUTE,
        }
    return content


FAULTS: dict[str, Fault] = JSON_FAULTS | {
    "missing_field/status": omit("status"),
    "wrong_type": change(number=718),
    "wrong_type/status": change(status="boarding"),
    "invalid_timestamp/date": change(flight_date="2026-02-30"),
    "out_of_range": change(departure_delay_min=99_999),
    "invalid_text": change(airline="Air France"),
    "unknown_airport": change(departure_airport="QQ1"),
}

app = make_app(draw_flights, FAULTS, "Print observations of flights, one JSON object per line.")

if __name__ == "__main__":
    app()
