"""The contract of a ride: what `rides_raw` may hold, and every reason for which a message is turned away.

`parse_ride` is the authority, one message at a time. `jobs.rides.pricing` decides the common cases column-wise
and asks here for all others. The written form is infra/kafka/schemas/rides_raw.schema.json.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

import msgspec

T = TypeVar("T", str, float, dict[str, Any])


class Reason(StrEnum):
    """Why a message is in the dead-letter topic: header `__connect.errors.exception.class.name`."""

    EMPTY_VALUE = "empty_value"
    INVALID_UTF8 = "invalid_utf8"
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_RIDE_ID = "invalid_ride_id"
    INVALID_TIMESTAMP = "invalid_timestamp"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_COMFORT = "unknown_comfort"
    NEGATIVE_AMOUNT = "negative_amount"
    NOT_FINITE = "not_finite"
    INVALID_RESULT = "invalid_result"
    REFUSED_BY_ELASTICSEARCH = "refused_by_elasticsearch"
    UNEXPECTED = "unexpected"


COMFORTS = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "eco": "low",
    "comfort": "medium",
    "business": "high",
}

# RFC 3339 (section 5.6), with at most microseconds. Python's datetime knows no leap second, so :60 is turned away.
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", re.ASCII)


class RejectedError(Exception):
    """A message breaks the contract. Its arguments are a `Reason`, for machines, and a text for people.

    What the text quotes of a message is written with !r: a lone surrogate could not be sent.
    """

    @property
    def reason(self) -> Reason:
        return self.args[0]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.args[1]  # type: ignore[no-any-return]


class Point(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A place: latitude in −90..90 and longitude in −180..180 degrees."""

    lat: float
    lon: float


class Ride(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A ride of `rides_raw`; `parse_ride` returns it normalised."""

    ride_id: str
    ts: str
    origin: Point
    destination: Point
    comfort: str
    duration_min: float
    price_base: float
    price_per_km: float
    price_per_min: float


def parse_ride(value: bytes | None) -> Ride:
    """Parse and normalise one message of `rides_raw`.

    Returns:
        The ride with ride_id in lower case, ts as `YYYY-MM-DDTHH:MM:SS.ffffffZ` and comfort without aliases.

    Raises:
        RejectedError: the first fault found: of the bytes, of the JSON, then of the fields in the contract's order.
    """
    text = _text(value)
    if _LARGEST in text:
        return _ride(_parse_object(text))
    try:
        ride = _decode_ride(text)
    except msgspec.ValidationError:  # a field too many, too few, or of another type
        return _ride(_certain_members(text) or _parse_object(text))
    except msgspec.DecodeError as error:
        if "\\" in text:  # msgspec knows no lone surrogate
            return _ride(_parse_object(text))
        raise RejectedError(Reason.INVALID_JSON, str(error)) from error
    except RecursionError:
        return _ride(_parse_object(text))
    if not _is_certain(text, _RIDE_QUOTES):
        return _ride(_parse_object(text))
    return Ride(
        ride_id=_ride_id(ride.ride_id),
        ts=normalise_timestamp(ride.ts),
        origin=_point(ride.origin.lat, ride.origin.lon, "origin."),
        destination=_point(ride.destination.lat, ride.destination.lon, "destination."),
        comfort=_comfort(ride.comfort),
        duration_min=_amount(ride.duration_min, "duration_min"),
        price_base=_amount(ride.price_base, "price_base"),
        price_per_km=_amount(ride.price_per_km, "price_per_km"),
        price_per_min=_amount(ride.price_per_min, "price_per_min"),
    )


def _ride(fields: dict[str, Any]) -> Ride:
    return Ride(
        ride_id=_ride_id(_member(fields, "ride_id", str)),
        ts=normalise_timestamp(_member(fields, "ts", str)),
        origin=_place(_member(fields, "origin", dict), "origin."),
        destination=_place(_member(fields, "destination", dict), "destination."),
        comfort=_comfort(_member(fields, "comfort", str)),
        duration_min=_amount(_member(fields, "duration_min", float), "duration_min"),
        price_base=_amount(_member(fields, "price_base", float), "price_base"),
        price_per_km=_amount(_member(fields, "price_per_km", float), "price_per_km"),
        price_per_min=_amount(_member(fields, "price_per_min", float), "price_per_min"),
    )


def normalise_timestamp(text: str) -> str:
    """Return an RFC 3339 time in UTC with six digits of a second.

    Raises:
        RejectedError: not such a time, no offset, more than microseconds, or outside the years 0001–9999 in UTC.
    """
    if not _TIMESTAMP.fullmatch(text):
        raise RejectedError(
            Reason.INVALID_TIMESTAMP, f"ts {text[:40]!r} is not RFC 3339 with an offset and at most microseconds"
        )
    try:
        moment = datetime.fromisoformat(text.upper())
        if text.endswith("Z") and text[10] == "T" and len(text) == len("YYYY-MM-DDTHH:MM:SS.ffffffZ"):
            return text
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RejectedError(Reason.INVALID_TIMESTAMP, f"ts {text!r}: {error}") from error
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


_Member = str | float | bool | None
_decode_ride = msgspec.json.Decoder(Ride).decode
_encode = msgspec.json.Encoder().encode
# Two for each key, and for each value that is a string.
_STRINGS = sum(field.type is str for field in msgspec.structs.fields(Ride))
_RIDE_QUOTES = 2 * (len(Ride.__struct_fields__) + 2 * len(Point.__struct_fields__) + _STRINGS)
# How Python, JavaScript and C++ end the largest double, which stands for "none" at times. msgspec takes 16 µs for such
# a number, and for others with large exponents, but those are rare.
_LARGEST = "e+308"
_decode_members = msgspec.json.Decoder(dict[str, _Member | dict[str, _Member]]).decode


def _text(value: bytes | None) -> str:
    if not value:
        raise RejectedError(Reason.EMPTY_VALUE, "the message has no value")
    if value.startswith(b"\xef\xbb\xbf"):
        raise RejectedError(Reason.BYTE_ORDER_MARK, "the message starts with a byte-order mark")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedError(Reason.INVALID_UTF8, f"byte {error.start}: {error.reason}") from error


def _is_certain(text: str, quotes: int) -> bool:
    """Whether msgspec has read a message as `_parse_object` does, when what it read has so many quotes.

    It keeps the last of repeated keys silently. Without escapes, quotes stand around keys and strings only, so that a
    repeated key shows as quotes too many.
    """
    return text.count('"') == quotes and "\\" not in text


def _certain_members(text: str) -> dict[str, Any] | None:
    """What `_parse_object` returns, much faster; None if that is not certain."""
    try:
        members = _decode_members(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return members if _is_certain(text, _encode(members).decode().count('"')) else None


def _parse_object(text: str) -> dict[str, Any]:
    try:
        parsed = _decode(text)
    except ValueError as error:
        raise RejectedError(Reason.INVALID_JSON, str(error)) from error
    except RecursionError as error:
        raise RejectedError(Reason.INVALID_JSON, "nested too deeply") from error
    if not isinstance(parsed, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, f"the message is a {_json_type(parsed)}, not an object")
    return parsed


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RejectedError(Reason.DUPLICATE_KEY, f"key {name[:40]!r} occurs more than once")
            seen.add(name)
    return members


def _float(integer: str) -> float:
    # Without the sum, -0 would be -0.0, which the fast decoder reads as 0.
    return float(integer) + 0.0


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Integers become floats at once: Python refuses to read very long ones as int.
_decode = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_int=_float, parse_float=float, parse_constant=_no_constant
).decode


def _member(fields: dict[str, Any], name: str, kind: type[T], path: str = "") -> T:
    value = fields.get(name)
    if type(value) is kind:
        return value
    if name not in fields:
        raise RejectedError(Reason.MISSING_FIELD, f"{path}{name} is missing")
    raise RejectedError(Reason.WRONG_TYPE, f"{path}{name} is a {_json_type(value)}, not a {_JSON_TYPES[kind]}")


_JSON_TYPES: dict[type, str] = {dict: "object", list: "array", str: "string", float: "number", bool: "boolean"}


def _json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), "null")


def _ride_id(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise RejectedError(Reason.INVALID_RIDE_ID, f"ride_id {text[:40]!r} is not a UUID")
    return text.lower()


def _place(fields: dict[str, Any], path: str) -> Point:
    lat = _coordinate(_member(fields, "lat", float, path), "lat", 90, path)
    return Point(lat, _coordinate(_member(fields, "lon", float, path), "lon", 180, path))


def _point(lat: float, lon: float, path: str) -> Point:
    return Point(_coordinate(lat, "lat", 90, path), _coordinate(lon, "lon", 180, path))


def _coordinate(degrees: float, name: str, limit: int, path: str) -> float:
    if -limit <= degrees <= limit:
        return degrees
    if not math.isfinite(degrees):
        raise RejectedError(Reason.NOT_FINITE, f"{path}{name} is too large a number")
    raise RejectedError(Reason.OUT_OF_RANGE, f"{path}{name} {degrees} is outside -{limit}..{limit}")


def _comfort(text: str) -> str:
    if comfort := COMFORTS.get(text):
        return comfort
    raise RejectedError(Reason.UNKNOWN_COMFORT, f"comfort {text[:40]!r} is none of {', '.join(COMFORTS)}")


def _amount(amount: float, name: str) -> float:
    if 0 <= amount < math.inf:
        return amount
    if not math.isfinite(amount):
        raise RejectedError(Reason.NOT_FINITE, f"{name} is too large a number")
    raise RejectedError(Reason.NEGATIVE_AMOUNT, f"{name} {amount} is negative")
