"""The weather at an airport, as the topic `weather` and the stream weather_stream have it.

The contract is infra/kafka/schemas/weather.schema.json. The collector of the flights makes the same observation of the
same answer, with the same event_id; tests/unit/serverless/test_weather_observation.py compares both.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid5

import msgspec
from msgspec import Meta

AIRPORTS_FILE = Path(__file__).resolve().parents[2] / "jobs" / "flights" / "airports.csv"

_EVENTS = UUID("6c8f2c1e-0f43-5d0e-9d8f-0c1f6a0a7d11")  # the namespace of event ids, that of the collector
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_YEARS = (1970, 2100)
_AHEAD = timedelta(days=1)  # clocks differ
# The lowest and the highest temperature on Earth, with a margin, in each unit.
_TEMPERATURES = {"standard": (173, 343), "metric": (-100, 70), "imperial": (-148, 158)}


class RejectedError(Exception):
    """An input is no observation. The text has the first fault."""


class Airport(NamedTuple):
    """An airport. Degrees on WGS 84; `country` is a code of ISO 3166."""

    iata: str
    city: str
    country: str
    lat: float
    lon: float


def read_airports(file: Path = AIRPORTS_FILE) -> dict[str, Airport]:
    """The airports by their IATA codes."""
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            row["iata"]: Airport(row["iata"], row["city"], row["country"], float(row["lat"]), float(row["lon"]))
            for row in csv.DictReader(lines)
        }


Text = Annotated[str, Meta(max_length=200)]
Percentage = Annotated[float, Meta(ge=0, le=100)]
Amount = Annotated[float, Meta(ge=0, le=500)]
Concentration = Annotated[float, Meta(ge=0, le=100_000)]  # µg/m³


class WeatherContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a source says. None is what it does not say. The event id depends on the order of the fields."""

    observed_at: Text
    place_id: Text
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    units: Literal["standard", "metric", "imperial"]
    temperature: float | None = None
    feels_like: float | None = None
    pressure_hpa: Annotated[float, Meta(ge=800, le=1100)] | None = None
    humidity_pct: Percentage | None = None
    visibility_m: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    wind_speed: Annotated[float, Meta(ge=0, le=300)] | None = None
    wind_deg: Annotated[float, Meta(ge=0, le=360)] | None = None
    wind_gust: Annotated[float, Meta(ge=0, le=400)] | None = None
    clouds_pct: Percentage | None = None
    rain_1h_mm: Amount | None = None
    snow_1h_mm: Amount | None = None
    condition: Text | None = None
    description: Text | None = None
    air_observed_at: Text | None = None
    aqi: Annotated[int, Meta(ge=1, le=5)] | None = None
    pm2_5: Concentration | None = None
    pm10: Concentration | None = None
    no2: Concentration | None = None
    o3: Concentration | None = None


class Weather(WeatherContent, frozen=True, kw_only=True):
    """An observation: the content and where it is from.

    Attributes:
        source: for example "openweather", or "fake:openweather" for the stand-in.
        position: the place in the source; never with a key.
    """

    event_id: str
    source: str
    position: str
    fetched_at: str


def make_weather(content: Mapping[str, Any], airports: Mapping[str, Airport], source: str, position: str) -> Weather:
    """Check what a source says. Values keep their units.

    Raises:
        RejectedError: it breaks the contract.
    """
    for name, value in content.items():
        # Before the conversion, which cannot take a lone surrogate.
        if isinstance(value, str) and not value.isprintable():
            raise RejectedError(f"{name} {value[:40]!r} has unprintable characters")
    try:
        checked = msgspec.convert(content, WeatherContent)
    except (msgspec.ValidationError, OverflowError) as error:
        raise RejectedError(str(error)) from error
    low, high = _TEMPERATURES[checked.units]
    for name in ("temperature", "feels_like"):
        value = getattr(checked, name)
        if value is not None and not low <= value <= high:
            raise RejectedError(f"{name} {value} is not within {low} to {high}, as in {checked.units} units")
    if checked.place_id not in airports:
        raise RejectedError(f"place_id {checked.place_id[:40]!r} is not in jobs/flights/airports.csv")
    observed_at = normalise_time("observed_at", checked.observed_at)
    if observed_at > format_time(datetime.now(UTC) + _AHEAD):
        raise RejectedError(f"observed_at {observed_at} is in the future")
    air_observed_at = checked.air_observed_at and normalise_time("air_observed_at", checked.air_observed_at)
    checked = msgspec.structs.replace(checked, observed_at=observed_at, air_observed_at=air_observed_at)
    digest = hashlib.sha256(msgspec.json.encode(checked)).hexdigest()
    return Weather(
        **msgspec.structs.asdict(checked),
        event_id=str(uuid5(_EVENTS, f"weather/{checked.place_id}/{observed_at}/{digest}")),
        source=source,
        position=position,
        fetched_at=format_time(datetime.now(UTC)),
    )


def normalise_time(name: str, text: str) -> str:
    """An RFC 3339 time in UTC with microseconds.

    Raises:
        RejectedError: it is not one, or outside the years of the contract.
    """
    try:
        if not _TIME.fullmatch(text):
            raise ValueError("it is not RFC 3339 with an offset and at most microseconds")
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RejectedError(f"{name} {text[:40]!r}: {error}") from error
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise RejectedError(f"{name} {text[:40]!r} is not in the years {_YEARS[0]} to {_YEARS[1]}")
    return format_time(moment)


def format_time(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
