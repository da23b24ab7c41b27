"""The data of the stand-in APIs. They depend on the time and the place only: each process gives the same answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from jobs.flights.airports import AIRPORTS, Airport

# OpenWeather's data change every ten minutes.
STEP_S = 600
# The flights that are shown: those that depart this long before or after the hour of the request.
WINDOW = timedelta(hours=6)
# Each airport has a departure in each slot of two hours, in UTC.
SLOT = timedelta(hours=2)

AIRLINES = (
    ("AF", "AFR", "Air France"), ("BA", "BAW", "British Airways"), ("SQ", "SIA", "Singapore Airlines"),
    ("HC", "SZN", "Air Senegal"), ("AT", "RAM", "Royal Air Maroc"), ("DL", "DAL", "Delta Air Lines"),
)  # fmt: skip
CONDITIONS = (
    (800, "Clear", "clear sky", "01d"), (802, "Clouds", "scattered clouds", "03d"), (500, "Rain", "light rain", "10d"),
    (741, "Mist", "mist", "50d"),
)  # fmt: skip
RAIN = 2  # its index


def make_weather(lat: float, lon: float, units: str, now: datetime) -> dict[str, Any]:
    """The body of a weather answer."""
    dt = int(now.timestamp()) // STEP_S * STEP_S
    moment = datetime.fromtimestamp(dt, UTC)
    random = _seed("weather", lat, lon, dt)
    wind = find_wind(lat, lon, moment)
    celsius = 28 - abs(lat) * 0.45 - 5 * math.cos((moment.hour + lon / 15) / 12 * math.pi) + random.uniform(-1, 1)
    condition = _seed("condition", lat, lon, dt // 3600).randrange(len(CONDITIONS))
    number, main, description, icon = CONDITIONS[condition]
    body: dict[str, Any] = {
        "coord": {"lon": lon, "lat": lat},
        "weather": [{"id": number, "main": main, "description": description, "icon": icon}],
        "base": "stations",
        "main": {
            "temp": _convert_temperature(celsius, units),
            "feels_like": _convert_temperature(celsius - wind / 10, units),
            "temp_min": _convert_temperature(celsius - 1, units),
            "temp_max": _convert_temperature(celsius + 1, units),
            "pressure": random.randint(995, 1030),
            "humidity": random.randint(30, 95),
        },
        "visibility": random.choice((4000, 8000, 10000, 10000)),
        "wind": {"speed": _convert_speed(wind, units), "deg": random.randint(0, 360)},
        "clouds": {"all": random.randint(0, 100)},
        "dt": dt,
        "sys": {"country": "XX", "sunrise": dt // 86400 * 86400 + 21600, "sunset": dt // 86400 * 86400 + 64800},
        "timezone": round(lon / 15) * 3600,
        "id": random.randint(1, 9_999_999),
        "name": "Stand-in",
        "cod": 200,
    }
    # Absent when there is none, as in the real answers.
    if wind > 8:
        body["wind"]["gust"] = _convert_speed(wind * 1.5, units)
    if condition == RAIN:
        body["rain"] = {"1h": round(random.uniform(0.1, 8), 2)}
    return body


def _convert_temperature(celsius: float, units: str) -> float:
    if units == "metric":
        return round(celsius, 2)
    return round(celsius * 1.8 + 32 if units == "imperial" else celsius + 273.15, 2)


def _convert_speed(speed: float, units: str) -> float:
    return round(speed * 2.23694 if units == "imperial" else speed, 2)


def make_air_pollution(lat: float, lon: float, now: datetime) -> dict[str, Any]:
    """The body of an air pollution answer. Concentrations are in µg/m³."""
    dt = int(now.timestamp()) // 3600 * 3600
    random = _seed("air", lat, lon, dt)
    aqi = random.randint(1, 5)
    highest = {"co": 300, "no": 5, "no2": 40, "o3": 60, "so2": 20, "pm2_5": 12, "pm10": 25, "nh3": 5}
    components = {name: round(aqi * random.uniform(0.2, 1) * value, 2) for name, value in highest.items()}
    entry = {"main": {"aqi": aqi}, "components": components, "dt": dt}
    return {"coord": {"lon": lon, "lat": lat}, "list": [entry]}


def find_wind(lat: float, lon: float, moment: datetime) -> float:
    """The wind at a place in m/s: of the day, and a little of the hour."""
    day = _seed("wind", lat, lon, moment.date()).uniform(1, 18)
    hour = _seed("wind", lat, lon, moment.date(), moment.hour).uniform(-1, 2)
    return round(day + hour, 2)


def make_flights(now: datetime) -> list[dict[str, Any]]:
    """The rows of all pages, by their slot of departure."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    day = (hour - WINDOW).date()
    rows = []
    while datetime.combine(day, datetime.min.time(), UTC) <= hour + WINDOW:
        for departs_at, number, airport in _list_departures(day):
            if abs(departs_at - hour) <= WINDOW:
                rows += _make_rows(airport, departs_at, number, now)
        day += timedelta(days=1)
    return rows


def _list_departures(day: date) -> Iterator[tuple[datetime, int, Airport]]:
    """The departures of a day in UTC, with the number of each flight."""
    midnight = datetime.combine(day, datetime.min.time(), UTC)
    for slot in range(timedelta(days=1) // SLOT):
        for index, airport in enumerate(AIRPORTS.values()):
            minute = _seed("minute", airport.iata, slot).randrange(0, 120, 5)
            # A flight keeps its number from day to day.
            yield midnight + slot * SLOT + timedelta(minutes=minute), 100 + index * 12 + slot, airport


def _make_rows(origin: Airport, departs_at: datetime, number: int, now: datetime) -> list[dict[str, Any]]:
    """A flight: the row of its operating carrier and, for some, that of an airline that sells it too."""
    daily = _seed("route", origin.iata, number)
    destination = daily.choice([airport for airport in AIRPORTS.values() if airport != origin])
    (iata, icao, name), partner = daily.sample(AIRLINES, 2)
    random = _seed("flight", origin.iata, number, departs_at.date())
    # Strong wind delays departures: about five minutes for each m/s above 7.
    wind = find_wind(origin.lat, origin.lon, departs_at)
    delay = max(0, round((wind - 7) * 5 + random.gauss(0, 6)))
    is_cancelled = random.random() < (0.08 if wind > 14 else 0.01)
    lasts = timedelta(minutes=max(50, round(_distance_km(origin, destination) / 13)))
    leaves_at, lands_at = departs_at + timedelta(minutes=delay), departs_at + lasts + timedelta(minutes=delay)
    status = "cancelled" if is_cancelled else _name_status(now, leaves_at, lands_at)
    left, landed = status in ("active", "landed"), status == "landed"
    row: dict[str, Any] = {
        "flight_date": departs_at.astimezone(ZoneInfo(origin.timezone)).date().isoformat(),
        "flight_status": status,
        "departure": _make_end(origin, departs_at, delay, is_over=left, is_cancelled=is_cancelled),
        "arrival": {
            **_make_end(destination, departs_at + lasts, delay, is_over=landed, is_cancelled=is_cancelled),
            "baggage": str(random.randint(1, 20)) if landed else None,
        },
        "airline": {"name": name, "iata": iata, "icao": icao},
        "flight": {"number": str(number), "iata": f"{iata}{number}", "icao": f"{icao}{number}", "codeshared": None},
        "aircraft": None,
        "live": None,
    }
    rows = [row]
    if number % 4 == 0:
        shared = {
            "airline_name": name.lower(), "airline_iata": iata.lower(), "airline_icao": icao.lower(),
            "flight_number": str(number), "flight_iata": f"{iata}{number}".lower(),
            "flight_icao": f"{icao}{number}".lower(),
        }  # fmt: skip
        sold = 5000 + number
        flight = {
            "number": str(sold),
            "iata": f"{partner[0]}{sold}",
            "icao": f"{partner[1]}{sold}",
            "codeshared": shared,
        }
        airline = {"name": partner[2], "iata": partner[0], "icao": partner[1]}
        rows.append({**row, "airline": airline, "flight": flight})
    return rows


def _name_status(now: datetime, leaves_at: datetime, lands_at: datetime) -> str:
    if now < leaves_at:
        return "scheduled"
    return "active" if now < lands_at else "landed"


def _make_end(
    airport: Airport, scheduled: datetime, delay: int, *, is_over: bool, is_cancelled: bool
) -> dict[str, Any]:
    real = scheduled + timedelta(minutes=delay)
    actual = _write_local(real, airport) if is_over else None
    return {
        "airport": airport.name,
        "timezone": airport.timezone,
        "iata": airport.iata,
        "icao": None,
        "terminal": None,
        "gate": None,
        "delay": None if is_cancelled else delay,
        "scheduled": _write_local(scheduled, airport),
        "estimated": None if is_cancelled else _write_local(real, airport),
        "actual": actual,
        "estimated_runway": actual,
        "actual_runway": actual,
    }


def _write_local(moment: datetime, airport: Airport) -> str:
    """A local time with the offset +00:00, as AviationStack writes it."""
    return moment.astimezone(ZoneInfo(airport.timezone)).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def _distance_km(first: Airport, second: Airport) -> float:
    """Along the great circle. https://en.wikipedia.org/wiki/Haversine_formula"""
    lat1, lon1, lat2, lon2 = map(math.radians, (first.lat, first.lon, second.lat, second.lon))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371 * math.asin(math.sqrt(half))


def _seed(*parts: object) -> Random:
    return Random("/".join(map(str, parts)))  # noqa: S311
