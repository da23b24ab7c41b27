"""A second implementation of the contract of rides_raw, written from docs/architecture.md without code of jobs.rides.

`jobs.rides` stops at the first fault; this finds all of them, and accepts any as the reported one.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NoReturn

COMFORTS = {"low": "low", "eco": "low", "medium": "medium", "comfort": "medium", "high": "high", "business": "high"}
AMOUNTS = ("duration_min", "price_base", "price_per_km", "price_per_min")
POINTS = ("origin", "destination")
EARTH_RADIUS_KM = 6371.0088
LARGEST = Fraction(sys.float_info.max)
# The interpreter limits the nesting of messages: it always rejects the first number of levels and accepts the second.
CERTAINLY_TOO_DEEP = 50_000
CERTAINLY_NOT_TOO_DEEP = 200
HEX = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True)
class Verdict:
    """The expected outcome of a message: a result with the fields `ride`, or a dead letter with one of `faults`.

    If it has both, either is accepted: the last digit of a price or the interpreter's stack decides.
    """

    ride: dict[str, Any] | None = None
    faults: frozenset[str] = frozenset()


class Number(str):
    """A number as written in the text."""

    __slots__ = ()


class Members(list[tuple[str, Any]]):
    """An object with all its members, including repeated ones."""


def judge(value: bytes | None) -> Verdict:  # noqa: PLR0911 (one for each fault that ends the reading)
    """What the contract says about a message of rides_raw."""
    if not value:
        return _rejected("empty_value")
    if value[:3] == b"\xef\xbb\xbf":
        return _rejected("byte_order_mark")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return _rejected("invalid_utf8")
    depth = _depth(text)
    if depth > CERTAINLY_TOO_DEEP:
        return _rejected("invalid_json", "duplicate_key")
    faults = {"invalid_json"} if depth > CERTAINLY_NOT_TOO_DEEP else set()
    problems: set[str] = set()
    try:
        content = _parse(text, problems)
    except (ValueError, RecursionError):
        return _rejected("invalid_json", *problems)
    if not isinstance(content, Members):
        return _rejected("not_an_object", *problems, *faults)
    ride = _read(content, problems)
    if problems:
        return _rejected(*problems, *faults)
    # Near antipodes and near the largest double, the last digits decide.
    exact = _total(ride, _great_circle_km(ride))
    if exact > LARGEST * (1 + Fraction(1, 10**7)):
        return _rejected("not_finite", *faults)
    if exact > LARGEST * (1 - Fraction(1, 10**7)):
        faults.add("not_finite")
    return Verdict(ride, frozenset(faults))


def judge_result(value: bytes | None) -> Verdict:
    """The expected outcome of any message on rides_result: a row for the sinks, or a rejection.

    The reader of results is less strict than that of raw rides: it skips unknown members, and may use the last of
    repeated keys.
    """
    refused = _rejected("invalid_result")
    text = (value or b"").decode("utf-8", "surrogateescape")
    is_open = any("\ud800" <= character <= "\udfff" for character in text) or r"\ud" in text.lower()
    depth = _depth(text)
    if depth > CERTAINLY_TOO_DEEP:
        return refused
    repeated: set[str] = set()
    try:
        content = _parse(text, repeated)
    except (ValueError, RecursionError):
        return refused
    if not isinstance(content, Members):
        return refused
    faults: set[str] = set()
    ride = _read(content, faults)
    given = dict(content)
    for name in ("distance_km", "price_total"):
        ride[name] = _number(_member(given, name, Number, faults), 0.0, math.inf, "negative_amount", faults)
    if faults or any(ride[name] != given[name] for name in ("ride_id", "ts", "comfort")):
        return refused
    return Verdict(ride, refused.faults if is_open or repeated or depth > CERTAINLY_NOT_TOO_DEEP else frozenset())


def is_result_of(ride: dict[str, Any], result: bytes) -> bool:
    """Whether a message of rides_result belongs to a normalised ride, with all numbers exact."""
    actual = json.loads(result, parse_int=float, parse_constant=_no_constant)
    distance_km, price_total = actual.pop("distance_km"), actual.pop("price_total")
    wanted_km = _great_circle_km(ride)
    # Haversine loses half of its digits near antipodes, where 1e-16 is a decimetre.
    allowed_km = 1e-6 if wanted_km < 19_900 else 1e-3
    exact = _total(ride, distance_km)
    # Four roundings of half a unit in the last place; a unit of subnormal doubles is 5e-324.
    allowed = exact * Fraction(4, 2**53) + 4 * Fraction(5e-324)
    return (
        actual == ride
        and distance_km >= 0
        and abs(distance_km - wanted_km) <= allowed_km
        and abs(Fraction(price_total) - exact) <= allowed
    )


def _rejected(*faults: str) -> Verdict:
    return Verdict(faults=frozenset(faults))


def _depth(text: str) -> int:
    """The depth of nested brackets outside of strings; an upper bound for text that is not JSON."""
    if text.count("[") + text.count("{") <= CERTAINLY_NOT_TOO_DEEP:
        return 0
    deepest = depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > CERTAINLY_TOO_DEEP:
                break
        elif character in "]}":
            depth -= 1
    return deepest


def _parse(text: str, repeated: set[str]) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> Members:
        if len({name for name, _ in pairs}) < len(pairs):
            repeated.add("duplicate_key")
        return Members(pairs)

    return json.loads(
        text, object_pairs_hook=members, parse_int=Number, parse_float=Number, parse_constant=_no_constant
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _read(content: Members, faults: set[str]) -> dict[str, Any]:
    """The normalised fields. Adds every fault to the set."""
    given = dict(content)
    ride: dict[str, Any] = {
        "ride_id": _ride_id(_member(given, "ride_id", str, faults), faults),
        "ts": _time(_member(given, "ts", str, faults), faults),
    }
    for name in POINTS:
        point = dict(_member(given, name, Members, faults) or Members())
        if name in given and not isinstance(given[name], Members):
            continue
        ride[name] = {
            axis: _number(_member(point, axis, Number, faults), -limit, limit, "out_of_range", faults)
            for axis, limit in (("lat", 90.0), ("lon", 180.0))
        }
    comfort = _member(given, "comfort", str, faults)
    ride["comfort"] = COMFORTS.get(comfort or "")
    if comfort is not None and ride["comfort"] is None:
        faults.add("unknown_comfort")
    for name in AMOUNTS:
        ride[name] = _number(_member(given, name, Number, faults), 0.0, math.inf, "negative_amount", faults)
    return ride


def _member(given: dict[str, Any], name: str, kind: type, faults: set[str]) -> Any:
    if name not in given:
        faults.add("missing_field")
        return None
    if type(given[name]) is not kind:
        faults.add("wrong_type")
        return None
    return given[name]


def _number(text: str | None, least: float, most: float, fault: str, faults: set[str]) -> float | None:
    if text is None:
        return None
    number = float(text)
    if math.isinf(number):
        faults.add("not_finite")
    elif not least <= number <= most:
        faults.add(fault)
    return number


def _ride_id(text: str | None, faults: set[str]) -> str | None:
    if text is None:
        return None
    if [len(part) for part in text.split("-")] != [8, 4, 4, 4, 12] or not set(text) - {"-"} <= HEX:
        faults.add("invalid_ride_id")
    return text.lower()


def _time(text: str | None, faults: set[str]) -> str | None:
    """RFC 3339, section 5.6, read character by character; no leap seconds, at most microseconds."""
    if text is None:
        return None
    try:
        return _utc(text)
    except (ValueError, OverflowError, IndexError):
        faults.add("invalid_timestamp")
        return None


def _utc(text: str) -> str:
    date, clock, rest = text[:10], text[11:19], text[19:]
    if date[4] + date[7] != "--" or text[10] not in "Tt" or clock[2] + clock[5] != "::":
        raise ValueError(text)
    year, month, day = _digits(date[:4], 4), _digits(date[5:7], 2), _digits(date[8:], 2)
    hour, minute, second = _digits(clock[:2], 2), _digits(clock[3:5], 2), _digits(clock[6:], 2)
    microsecond = 0
    if rest[0] == ".":
        fraction = rest[1:].rstrip("Zz").split("+")[0].split("-")[0]
        if not 1 <= len(fraction) <= 6:
            raise ValueError(text)
        microsecond = _digits(fraction.ljust(6, "0"), 6)
        rest = rest[1 + len(fraction) :]
    moment = datetime(year, month, day, hour, minute, second, microsecond)
    if rest not in {"Z", "z"}:
        if rest[0] not in "+-" or rest[3] != ":" or len(rest) != 6:
            raise ValueError(text)
        hours, minutes = _digits(rest[1:3], 2), _digits(rest[4:], 2)
        if hours > 23 or minutes > 59:
            raise ValueError(text)
        moment -= timedelta(hours=hours, minutes=minutes) * (1 if rest[0] == "+" else -1)
    return (
        f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}T"
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}.{moment.microsecond:06d}Z"
    )


def _digits(text: str, length: int) -> int:
    if len(text) != length or not set(text) <= set("0123456789"):
        raise ValueError(text)
    return int(text)


def _great_circle_km(ride: dict[str, Any]) -> float:
    """The angle between two vectors by its tangent, which keeps its digits everywhere (haversine does not)."""
    (x1, y1, z1), (x2, y2, z2) = (_vector(ride[name]) for name in POINTS)
    cross = math.hypot(y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2)
    return EARTH_RADIUS_KM * math.atan2(cross, x1 * x2 + y1 * y2 + z1 * z2)


def _vector(point: dict[str, float]) -> tuple[float, float, float]:
    lat, lon = math.radians(point["lat"]), math.radians(point["lon"])
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


def _total(ride: dict[str, Any], distance_km: float) -> Fraction:
    base, per_km, minutes, per_min = (
        Fraction(ride[name]) for name in ("price_base", "price_per_km", "duration_min", "price_per_min")
    )
    return base + Fraction(distance_km) * per_km + minutes * per_min
