"""What the pages show: departures and weather that depend on nothing but the hour. All of it is made up."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from jobs.flights.airports import AIRPORTS, Airport

PAGE_ROWS = 12
PER_HOUR = 3
HOURS = range(-3, 5)  # whose departures are shown, from the current one
AIRLINES = ("AF", "BA", "LH", "KL", "IB", "TP", "SN", "TK", "EK", "SQ", "DL", "ET", "AT", "HC")
MINUTE = timedelta(minutes=1)
BAD = 0.75  # from this severity on, flights are late

FLIGHT_COLUMNS = (
    "Flight", "From", "To", "Departure (local time)", "Expected (local time)", "Arrival (local time)", "Status",
    "Delay (min)",
)  # fmt: skip
WEATHER_COLUMNS = (
    "Place", "City", "Latitude (°)", "Longitude (°)", "Temperature (°C)", "Wind (m/s)", "Direction (°)",
    "Humidity (%)", "Pressure (hPa)", "Visibility (km)", "Condition",
)  # fmt: skip
CONDITIONS = ((BAD, "Thunderstorm"), (0.5, "Rain"), (0.25, "Clouds"), (0.0, "Clear"))

Row = tuple[str, ...]


def start_of_hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def list_departures(hour: datetime) -> list[Row]:
    """The departures around an hour, in the order of their times."""
    flights = []
    for shift in HOURS:
        scheduled = hour + timedelta(hours=shift)
        for place in range(PER_HOUR):
            rng = random.Random(f"departures/{scheduled:%Y-%m-%dT%H}/{place}")
            origin, destination = rng.sample(list(AIRPORTS.values()), 2)
            departure = scheduled + 5 * MINUTE * rng.randrange(12)
            arrival = departure + 5 * MINUTE * rng.randrange(12, 150)
            mean_min = 60 if _draw_severity(origin, scheduled) >= BAD else 4
            delay = round(rng.expovariate(1 / mean_min)) * MINUTE
            number = f"{rng.choice(AIRLINES)} {2000 + scheduled.hour * PER_HOUR + place}"
            is_cancelled = rng.random() < 0.03
            expected = departure + delay
            if is_cancelled:
                status = "Cancelled"
            elif hour >= arrival + delay:
                status = "Landed"
            elif hour >= expected:
                status = "Departed"
            else:
                status = "Delayed" if delay else "Scheduled"
            cells = (
                number,
                origin.iata,
                destination.iata,
                _format_local(departure, origin),
                "" if is_cancelled else _format_local(expected, origin),
                _format_local(arrival, destination),
                status,
                "" if is_cancelled else str(delay // MINUTE),
            )
            flights.append((departure, cells))
    return [cells for _, cells in sorted(flights)]


def list_weather(hour: datetime) -> list[Row]:
    """The weather at every airport in an hour."""
    rows: list[Row] = []
    for airport in AIRPORTS.values():
        severity = _draw_severity(airport, hour)
        rng = random.Random(f"weather/{airport.iata}/{hour:%Y-%m-%dT%H}")
        rows.append(
            (
                airport.iata,
                airport.city,
                str(airport.lat),
                str(airport.lon),
                f"{30 - abs(airport.lat) * 0.45 + rng.uniform(-4, 4):.1f}",
                f"{2 + severity * 18 + rng.uniform(0, 2):.1f}",
                str(rng.randrange(360)),
                str(round(45 + severity * 50)),
                str(round(1020 - severity * 35)),
                f"{10 - severity * 8:.1f}",
                next(name for lowest, name in CONDITIONS if severity >= lowest),
            )
        )
    return rows


def _draw_severity(airport: Airport, hour: datetime) -> float:
    """How bad the weather is: 0 (calm) to 1 (storm)."""
    return random.Random(f"severity/{airport.iata}/{hour:%Y-%m-%dT%H}").random()


def _format_local(moment: datetime, airport: Airport) -> str:
    return moment.astimezone(ZoneInfo(airport.timezone)).strftime("%Y-%m-%d %H:%M")
