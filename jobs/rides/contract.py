"""The contract of a ride: the valid messages of `rides_raw`, and the reasons to reject a message.

`parse_ride` is the authority, one message at a time. `jobs.rides.pricing` handles the common cases column by column
and calls it for all others. The JSON Schema is infra/kafka/schemas/rides_raw.schema.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

from jobs.rides.fields import RAW_FIELDS, Kind
from jobs.strict_json import UUID, RejectedError, decode_text, normalise_timestamp, parse_object, read_member


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
    sources, targets = {"": _parse_object(decode_text(value))}, {"": ride}
    for path, place, name, kind, default, check in _STEPS:
        if place not in sources:
            sources[place] = read_member(sources[""], place, dict, place)
            targets[place] = ride[place] = {}
        if default is None or name in sources[place]:
            targets[place][name] = check(read_member(sources[place], name, kind, path), path)
    return msgspec.convert(ride, Ride)


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
    return parse_object(text)


# The end of the largest double as Python, JavaScript and C++ print it. Some senders use it for a missing value.
_LARGEST = "e+308"
_decode_ride = msgspec.json.Decoder(Ride).decode


def _check_ride_id(text: str, _: str) -> str:
    if not UUID.fullmatch(text):
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
    Kind.TIME: normalise_timestamp,
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
