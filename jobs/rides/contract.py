"""The contract of a ride: the valid messages of `rides_raw`, and the reasons to reject a message.

`parse_ride` is the authority, one message at a time. `jobs.rides.pricing` handles the common cases column by column
and calls it for all others. The JSON Schema is infra/kafka/schemas/rides_raw.schema.json.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn

import msgspec

from jobs.rides.fields import RAW_FIELDS, Kind


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

# RFC 3339 (section 5.6) with at most microseconds. Python's datetime has no leap seconds, so :60 is rejected.
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", re.ASCII)


class RejectedError(Exception):
    """A message violates the contract. The arguments are a `Reason` for programs and a text for people.

    Parts of the message are quoted with !r, because a text with a lone surrogate cannot be sent.
    """

    @property
    def reason(self) -> Reason:
        return self.args[0]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.args[1]  # type: ignore[no-any-return]


class Point(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A point: latitude in −90..90 and longitude in −180..180 degrees."""

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
        RejectedError: the first error in the bytes, in the JSON, or in the fields in the contract's order.
    """
    ride: dict[str, Any] = {}
    # Input and output objects by parent path; "" is the ride itself.
    sources, targets = {"": _parse_object(_decode_text(value))}, {"": ride}
    for path, place, name, kind, default, check in _STEPS:
        if place not in sources:
            sources[place] = _read_member(sources[""], place, dict, place)
            targets[place] = ride[place] = {}
        if default is None or name in sources[place]:
            targets[place][name] = check(_read_member(sources[place], name, kind, path), path)
    return msgspec.convert(ride, Ride)


def normalise_timestamp(text: str) -> str:
    """Return an RFC 3339 time in UTC with six digits of a second.

    Raises:
        RejectedError: not an RFC 3339 time, no offset, more than six digits of a second, or outside the years 0001–9999
            in UTC.
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


def _decode_text(value: bytes | None) -> str:
    if not value:
        raise RejectedError(Reason.EMPTY_VALUE, "the message has no value")
    if value.startswith(b"\xef\xbb\xbf"):
        raise RejectedError(Reason.BYTE_ORDER_MARK, "the message starts with a byte-order mark")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedError(Reason.INVALID_UTF8, f"byte {error.start}: {error.reason}") from error


def _parse_object(text: str) -> dict[str, Any]:
    try:
        # msgspec detects malformed JSON five times as fast as json. Not used for escapes, because it rejects lone
        # surrogates, and for large exponents, because each takes it 16 µs.
        if "\\" not in text and _LARGEST not in text:
            _decode_ride(text)
    except (msgspec.ValidationError, RecursionError):
        pass
    except msgspec.DecodeError as error:
        raise RejectedError(Reason.INVALID_JSON, str(error)) from error
    try:
        parsed = _decode(text)
    except ValueError as error:
        raise RejectedError(Reason.INVALID_JSON, str(error)) from error
    except RecursionError as error:
        raise RejectedError(Reason.INVALID_JSON, "nested too deeply") from error
    if not isinstance(parsed, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, f"the message is a {_name_type(parsed)}, not an object")
    return parsed


def _check_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RejectedError(Reason.DUPLICATE_KEY, f"key {name[:40]!r} occurs more than once")
            seen.add(name)
    return members


def _parse_integer(integer: str) -> float:
    # The sum turns -0.0 into 0.0, which is what msgspec returns for -0.
    return float(integer) + 0.0


# The end of the largest double as Python, JavaScript and C++ print it. Some senders use it for a missing value.
_LARGEST = "e+308"
_decode_ride = msgspec.json.Decoder(Ride).decode


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Parse integers as floats: Python raises an error for very long ones.
_decode = json.JSONDecoder(
    object_pairs_hook=_check_unique, parse_int=_parse_integer, parse_float=float, parse_constant=_reject_constant
).decode


def _read_member(members: dict[str, Any], name: str, kind: type, path: str) -> Any:
    value = members.get(name)
    if type(value) is kind:
        return value
    if name not in members:
        raise RejectedError(Reason.MISSING_FIELD, f"{path} is missing")
    raise RejectedError(Reason.WRONG_TYPE, f"{path} is a {_name_type(value)}, not a {_JSON_TYPES[kind]}")


_JSON_TYPES: dict[type, str] = {dict: "object", list: "array", str: "string", float: "number", bool: "boolean"}


def _name_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), "null")


def _check_ride_id(text: str, _: str) -> str:
    if not _UUID.fullmatch(text):
        raise RejectedError(Reason.INVALID_RIDE_ID, f"ride_id {text[:40]!r} is not a UUID")
    return text.lower()


def _check_latitude(degrees: float, path: str) -> float:
    return _check_coordinate(degrees, path, 90)


def _check_longitude(degrees: float, path: str) -> float:
    return _check_coordinate(degrees, path, 180)


def _check_coordinate(degrees: float, path: str, limit: int) -> float:
    if -limit <= degrees <= limit:
        return degrees
    if not math.isfinite(degrees):
        raise RejectedError(Reason.NOT_FINITE, f"{path} is too large a number")
    raise RejectedError(Reason.OUT_OF_RANGE, f"{path} {degrees} is outside -{limit}..{limit}")


def _check_comfort(text: str, _: str) -> str:
    if comfort := COMFORTS.get(text):
        return comfort
    raise RejectedError(Reason.UNKNOWN_COMFORT, f"comfort {text[:40]!r} is not one of {', '.join(COMFORTS)}")


def _check_amount(amount: float, path: str) -> float:
    if 0 <= amount < math.inf:
        return amount
    if not math.isfinite(amount):
        raise RejectedError(Reason.NOT_FINITE, f"{path} is too large a number")
    raise RejectedError(Reason.NEGATIVE_AMOUNT, f"{path} {amount} is negative")


_CHECKS: dict[Kind, Callable[[Any, str], str | float]] = {
    Kind.UUID: _check_ride_id,
    Kind.TIME: lambda text, _: normalise_timestamp(text),
    Kind.COMFORT: _check_comfort,
    Kind.LATITUDE: _check_latitude,
    Kind.LONGITUDE: _check_longitude,
    Kind.AMOUNT: _check_amount,
}
# Per field: path, parent, name, JSON type, default, check.
_STEPS = [
    (
        field.path,
        *field.path.rpartition(".")[::2],
        str if field.kind.is_text else float,
        field.default,
        _CHECKS[field.kind],
    )
    for field in RAW_FIELDS
]
