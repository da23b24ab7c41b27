"""The contract of an observation: a flight or the weather at a place, as one source saw it at one moment.

A source builds `Flight` and `Weather` with `make_flight` and `make_weather`, which check the content. What they refuse
becomes a `Reject` with the unchanged input. The JSON Schemas are infra/kafka/schemas/{flights,weather}.schema.json.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID, uuid5

import msgspec

from jobs.flights.airports import AIRPORTS
from jobs.strict_json import RejectedError, normalise_timestamp

_EVENTS = UUID("6c8f2c1e-0f43-5d0e-9d8f-0c1f6a0a7d11")  # the namespace of event ids; random

# What a detail of a reject and a text of a source may have.
MAX_DETAIL = 1_000  # characters
MAX_TEXT = 200
# MySQL holds the years 1000 to 9999; a flight has no other years than these.
FIRST_YEAR, LAST_YEAR = 1970, 2100


class Kind(StrEnum):
    """What is observed. There is a buffer and a topic for each."""

    FLIGHT = "flight"
    WEATHER = "weather"


class Reason(StrEnum):
    """Why an input is in flights_dlq."""

    EMPTY_VALUE = "empty_value"
    INVALID_UTF8 = "invalid_utf8"  # not in the encoding of the setting
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_JSON = "invalid_json"  # for example HTML
    DUPLICATE_KEY = "duplicate_key"  # also a column of a file that occurs twice
    NOT_AN_OBJECT = "not_an_object"
    HTTP_ERROR = "http_error"
    ERROR_IN_BODY = "error_in_body"  # an API answered with an error, whatever the status
    MISSING_DATA = "missing_data"  # an answer without the member that holds the data
    TRUNCATED = "truncated"  # a line of a file has too few or too many values, or is too long
    EMPTY_PAGE = "empty_page"  # a page never showed its table
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TIMESTAMP = "invalid_timestamp"  # also a date that does not exist
    WRONG_UNITS = "wrong_units"
    IMPOSSIBLE_COORDINATES = "impossible_coordinates"
    OUT_OF_RANGE = "out_of_range"
    INVALID_TEXT = "invalid_text"
    UNKNOWN_AIRPORT = "unknown_airport"
    # By the relay and by dag_clean_flights:
    INVALID_MESSAGE = "invalid_message"  # not of this version of the contract
    MISSING_VALUE = "missing_value"
    IMPLAUSIBLE = "implausible"


STATUSES = ("scheduled", "active", "landed", "cancelled", "incident", "diverted")
Status = Literal["scheduled", "active", "landed", "cancelled", "incident", "diverted"]
# As OpenWeather calls them: kelvin and m/s, °C and m/s, °F and mph.
Units = Literal["standard", "metric", "imperial"]


class Origin(msgspec.Struct, frozen=True):
    """Where and when an input was fetched.

    Attributes:
        source: for example "openweather", or "fake:openweather" for the stand-in.
        position: the place in the source: file:line, URL without the key, page and row.
        fetched_at: RFC 3339 in UTC.
    """

    source: str
    position: str
    fetched_at: str


class FlightContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a source says about a flight. Times are RFC 3339 with an offset; None is what it does not say.

    Attributes:
        observed_at: when the source saw this state.
        airline, number: of the operating carrier: IATA code and digits.
        marketing_number: the flight number under which the source listed a code share.
        flight_date: local date of the scheduled departure.
        departure_airport, arrival_airport: IATA codes.
        departure_local: the source's own text of the scheduled departure, if it had no right offset.
        is_ambiguous: whether the local time occurs twice that night; the earlier one counts.
    """

    observed_at: str
    airline: str
    number: str
    flight_date: str
    departure_airport: str
    arrival_airport: str
    status: Status
    scheduled_departure: str
    scheduled_arrival: str
    estimated_departure: str | None = None
    estimated_arrival: str | None = None
    actual_departure: str | None = None
    actual_arrival: str | None = None
    departure_delay_min: float | None = None
    arrival_delay_min: float | None = None
    marketing_number: str | None = None
    departure_local: str | None = None
    is_ambiguous: bool = False


class WeatherContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a source says about the weather at a place. None is what it does not say.

    Attributes:
        place_id: IATA code of the airport.
        units: of temperatures and wind.
        aqi: OpenWeather's index of air quality, 1 to 5; pm2_5, pm10, no2, o3 are in µg/m³.
    """

    observed_at: str
    place_id: str
    lat: float
    lon: float
    units: Units
    temperature: float | None = None
    feels_like: float | None = None
    pressure_hpa: float | None = None
    humidity_pct: float | None = None
    visibility_m: float | None = None
    wind_speed: float | None = None
    wind_deg: float | None = None
    wind_gust: float | None = None
    clouds_pct: float | None = None
    rain_1h_mm: float | None = None
    snow_1h_mm: float | None = None
    condition: str | None = None
    description: str | None = None
    air_observed_at: str | None = None
    aqi: int | None = None
    pm2_5: float | None = None
    pm10: float | None = None
    no2: float | None = None
    o3: float | None = None


class Flight(FlightContent, frozen=True, kw_only=True):
    """A message of the topic `flights`. Times are in UTC.

    Attributes:
        flight_id: carrier, number, departure date and departure airport: "AF718/2026-01-05/CDG".
    """

    event_id: str
    flight_id: str
    source: str
    position: str
    fetched_at: str

    @property
    def key(self) -> str:
        return self.flight_id


class Weather(WeatherContent, frozen=True, kw_only=True):
    """A message of the topic `weather`."""

    event_id: str
    source: str
    position: str
    fetched_at: str

    @property
    def key(self) -> str:
        return self.place_id


class Reject(msgspec.Struct, frozen=True):
    """An input that is no observation.

    Attributes:
        value: the input as the source gave it, without keys of APIs.
    """

    kind: Kind
    origin: Origin
    reason: str
    detail: str
    value: bytes

    @property
    def event_id(self) -> str:
        """The same input from the same position of the same fetch has the same id."""
        digest = hashlib.sha256(self.value).hexdigest()
        origin = f"{self.origin.source}/{self.origin.fetched_at}/{self.origin.position}"
        return str(uuid5(_EVENTS, f"reject/{self.kind}/{origin}/{digest}"))


Observation = Flight | Weather
Collected = Flight | Weather | Reject

C = TypeVar("C", FlightContent, WeatherContent)

_AHEAD = timedelta(days=1)  # clocks differ, and so do time zones that a source forgets
_CARRIER = re.compile(r"[A-Z0-9]{2}", re.ASCII)
_AIRPORT = re.compile(r"[A-Z]{3}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = re.compile(r"\d{1,4}[A-Z]?", re.ASCII)
TIMES = (
    "observed_at", "scheduled_departure", "scheduled_arrival", "estimated_departure", "estimated_arrival",
    "actual_departure", "actual_arrival", "air_observed_at",
)  # fmt: skip
_DAY_MIN = 24 * 60
_LIMITS = {
    "pressure_hpa": (800, 1100),
    "humidity_pct": (0, 100),
    "visibility_m": (0, 100_000),
    "wind_speed": (0, 300),
    "wind_deg": (0, 360),
    "wind_gust": (0, 400),
    "clouds_pct": (0, 100),
    "rain_1h_mm": (0, 500),
    "snow_1h_mm": (0, 500),
    "aqi": (1, 5),
    **dict.fromkeys(("pm2_5", "pm10", "no2", "o3"), (0, 100_000)),
    **dict.fromkeys(("departure_delay_min", "arrival_delay_min"), (-_DAY_MIN, 7 * _DAY_MIN)),
}
# The lowest and the highest temperature on Earth, with a margin, in each unit.
_TEMPERATURES = {"standard": (173, 343), "metric": (-100, 70), "imperial": (-148, 158)}


def make_flight(content: Mapping[str, Any], origin: Origin) -> Flight:
    """Check and normalise what a source says about a flight.

    Args:
        content: the fields of `FlightContent`. Numbers are numbers.

    Raises:
        RejectedError: the first fault in the order of `Reason`.
    """
    checked = _check(content, FlightContent)
    for name, pattern in (("airline", _CARRIER), ("number", _NUMBER)):
        text = getattr(checked, name)
        if not pattern.fullmatch(text):
            raise RejectedError(Reason.INVALID_TEXT, f"{name} {text[:40]!r} does not match {pattern.pattern}")
    _check_date(checked.flight_date)
    for name in ("departure_airport", "arrival_airport"):
        code = getattr(checked, name)
        # Any airport of the world: its time zone is not needed any more.
        if not _AIRPORT.fullmatch(code):
            raise RejectedError(Reason.UNKNOWN_AIRPORT, f"{name} {code[:40]!r} is not an IATA code")
    number = checked.number.lstrip("0") or "0"
    checked = msgspec.structs.replace(checked, number=number)
    flight_id = f"{checked.airline}{number}/{checked.flight_date}/{checked.departure_airport}"
    return Flight(
        **msgspec.structs.asdict(checked),
        event_id=_make_event_id(Kind.FLIGHT, flight_id, checked),
        flight_id=flight_id,
        **msgspec.structs.asdict(origin),
    )


def make_weather(content: Mapping[str, Any], origin: Origin) -> Weather:
    """Check and normalise what a source says about the weather. Values keep their units.

    Args:
        content: the fields of `WeatherContent`. Numbers are numbers.

    Raises:
        RejectedError: the first fault in the order of `Reason`.
    """
    if content.get("units", "metric") not in get_args(Units):
        raise RejectedError(Reason.WRONG_UNITS, f"units {str(content['units'])[:40]!r} are none of {get_args(Units)}")
    checked = _check(content, WeatherContent)
    for name, limit in (("lat", 90), ("lon", 180)):
        if not abs(getattr(checked, name)) <= limit:
            text = f"{name} {getattr(checked, name)} is not within ±{limit}"
            raise RejectedError(Reason.IMPOSSIBLE_COORDINATES, text)
    low, high = _TEMPERATURES[checked.units]
    for name in ("temperature", "feels_like"):
        value = getattr(checked, name)
        if value is not None and not low <= value <= high:
            text = f"{name} {value} is not within {low} to {high}, as in {checked.units} units"
            raise RejectedError(Reason.WRONG_UNITS, text)
    if checked.place_id not in AIRPORTS:
        text = f"place_id {checked.place_id[:40]!r} is not in jobs/flights/airports.csv"
        raise RejectedError(Reason.UNKNOWN_AIRPORT, text)
    return Weather(
        **msgspec.structs.asdict(checked),
        event_id=_make_event_id(Kind.WEATHER, checked.place_id, checked),
        **msgspec.structs.asdict(origin),
    )


def _check(content: Mapping[str, Any], kind: type[C]) -> C:
    known = kind.__struct_fields__
    if unknown := [name for name in content if name not in known]:
        raise RejectedError(Reason.UNKNOWN_FIELD, f"{', '.join(map(repr, unknown))[:MAX_TEXT]} is not in the contract")
    if missing := [name for name in list_required(kind) if content.get(name) is None]:
        raise RejectedError(Reason.MISSING_FIELD, f"{', '.join(missing)} is missing")
    for name, value in content.items():
        # Before the conversion, which cannot take a lone surrogate.
        if isinstance(value, str) and not value.isprintable():
            raise RejectedError(Reason.INVALID_TEXT, f"{name} {value[:40]!r} has unprintable characters")
    try:
        checked = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise RejectedError(Reason.WRONG_TYPE, str(error)[:MAX_DETAIL]) from error
    values = {name: getattr(checked, name) for name in known}
    return msgspec.structs.replace(
        checked, **{name: _check_value(name, value) for name, value in values.items() if value is not None}
    )


def _check_value(name: str, value: Any) -> Any:
    """Check a value of the right type; returns it, or a time in UTC."""
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise RejectedError(Reason.INVALID_TEXT, f"{name} {value[:40]!r} has more than {MAX_TEXT} characters")
    if isinstance(value, float) and not math.isfinite(value):
        raise RejectedError(Reason.OUT_OF_RANGE, f"{name} is {value}")
    if name in _LIMITS:
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise RejectedError(Reason.OUT_OF_RANGE, f"{name} {value} is not within {low} to {high}")
    return _check_time(name, value) if name in TIMES else value


def _check_time(name: str, text: str) -> str:
    moment = normalise_timestamp(text, name)
    if not FIRST_YEAR <= int(moment[:4]) <= LAST_YEAR:
        detail = f"{name} {text[:40]!r} is not in the years {FIRST_YEAR} to {LAST_YEAR}"
        raise RejectedError(Reason.INVALID_TIMESTAMP, detail)
    if name == "observed_at" and moment > format_time(datetime.now(UTC) + _AHEAD):
        # It would win against every later observation.
        raise RejectedError(Reason.INVALID_TIMESTAMP, f"observed_at {text[:40]!r} is in the future")
    return moment


def _check_date(text: str) -> None:
    try:
        if not _DATE.fullmatch(text):
            raise ValueError("it is not YYYY-MM-DD")
        year = date.fromisoformat(text).year
        if not FIRST_YEAR <= year <= LAST_YEAR:
            raise ValueError(f"it is not in the years {FIRST_YEAR} to {LAST_YEAR}")
    except ValueError as error:
        raise RejectedError(Reason.INVALID_TIMESTAMP, f"flight_date {text[:40]!r}: {error}") from error


def _make_event_id(kind: Kind, key: str, content: FlightContent | WeatherContent) -> str:
    """The same observation has the same id, however often it is fetched."""
    digest = hashlib.sha256(msgspec.json.encode(content)).hexdigest()
    return str(uuid5(_EVENTS, f"{kind}/{key}/{content.observed_at}/{digest}"))


CONTENTS: dict[Kind, type[FlightContent | WeatherContent]] = {
    Kind.FLIGHT: FlightContent,
    Kind.WEATHER: WeatherContent,
}
MAKERS: dict[Kind, Callable[[Mapping[str, Any], Origin], Observation]] = {
    Kind.FLIGHT: make_flight,
    Kind.WEATHER: make_weather,
}


def list_required(kind: type[FlightContent | WeatherContent]) -> tuple[str, ...]:
    """The fields that have no default."""
    return kind.__struct_fields__[: len(kind.__struct_fields__) - len(kind.__struct_defaults__)]


def make_reject(kind: Kind, origin: Origin, error: RejectedError, value: bytes) -> Reject:
    """The reject for an input that `make_flight` or `make_weather` refused."""
    return Reject(kind, origin, str(error.reason), str(error)[:MAX_DETAIL], value)


def format_time(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
