"""Messages of `rides_raw` and `rides_result` as columns, for those whose form leaves no doubt that they are rides.

One regular expression tells such a form, byte by byte, so that Arrow's JSON reader, which is fast and lenient, has only
such messages to read. Both work without the interpreter's lock. What the expressions do not take is no fault: it is
left to those who look at one message at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from jobs.rides.contract import COMFORTS

NUMBERS = (
    "origin.lat",
    "origin.lon",
    "destination.lat",
    "destination.lon",
    "duration_min",
    "price_base",
    "price_per_km",
    "price_per_min",
)
RIDES_SCHEMA = pa.schema(
    [
        ("ride_id", pa.string()),
        ("ts", pa.string()),
        ("comfort", pa.string()),
        *((name, pa.float64()) for name in NUMBERS),
    ]
)

RESULTS_SCHEMA = RIDES_SCHEMA.append(pa.field("distance_km", pa.float64())).append(
    pa.field("price_total", pa.float64())
)

CANONICAL_RIDE_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# A time as `normalise_timestamp` returns it.
_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
CANONICAL_TIMESTAMP = (
    r"(?:(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    rf"|(?:\d\d{_LEAP}|{_LEAP}00)-02-29)"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z"
)

# A number as Arrow prints a double: the fewest digits, at most 15 so that no other number has the same double.
_CANONICAL_AMOUNT = r"(?:0|(?:0\.0{0,3}|[1-9]\d{0,5}\.\d{0,4})[1-9](?:\d{0,3}[1-9])?|[1-9]\d{0,5})"
_CANONICAL = {
    "ride_id": f'"{CANONICAL_RIDE_ID}"',
    "ts": f'"{CANONICAL_TIMESTAMP}"',
    "comfort": f'"(?:{"|".join(sorted(set(COMFORTS.values())))})"',
    "coordinate": f"(?:-?{_CANONICAL_AMOUNT})",
    "amount": _CANONICAL_AMOUNT,
}
# Whatever a double holds; −0 is left to `parse_ride`, as is what might be too large.
_PLAIN_AMOUNT = r"(?:0|0\.\d+|[1-9]\d{0,14}(?:\.\d+)?)(?:[eE][+-]?\d{1,2})?"
_PLAIN = {
    "ride_id": f'"{CANONICAL_RIDE_ID}"',
    # normalised later, and checked then
    "ts": r'"[0-9TtZz:.+-]{20,32}"',
    "comfort": f'"(?:{"|".join(COMFORTS)})"',
    "coordinate": rf"(?:{_PLAIN_AMOUNT}|-(?:0\.\d+|[1-9]\d{{0,14}}(?:\.\d+)?)(?:[eE][+-]?\d{{1,2}})?)",
    "amount": _PLAIN_AMOUNT,
}

_Order = tuple[tuple[str, tuple[str, ...]], ...]
_POINT = ("lat", "lon")
# Among so many messages there is a good one, or all go one by one.
_SEARCHED = 16
_CANONICAL_ORDER: _Order = (
    ("ride_id", ()),
    ("ts", ()),
    ("origin", _POINT),
    ("destination", _POINT),
    ("comfort", ()),
    ("duration_min", ()),
    ("price_base", ()),
    ("price_per_km", ()),
    ("price_per_min", ()),
)


def _object(members: list[str], space: str) -> str:
    return rf"\{{{space}{f'{space},{space}'.join(members)}{space}\}}"


def _expression(order: _Order, values: Mapping[str, str], space: str) -> str:
    """The regular expression of a ride with its members in an order and `space` around each sign."""

    def member(name: str, value: str) -> str:
        return f'"{name}"{space}:{space}{value}'

    members = [
        member(name, _object([member(axis, values["coordinate"]) for axis in axes], space))
        if axes
        else member(name, values.get(name, values["amount"]))
        for name, axes in order
    ]
    return f"^{_object(members, space)}$"


_IS_CANONICAL = _expression(_CANONICAL_ORDER, _CANONICAL, "")
_RESULT_ORDER = (*_CANONICAL_ORDER, ("distance_km", ()), ("price_total", ()))
_IS_RESULT = _expression(_RESULT_ORDER, _PLAIN | {name: _CANONICAL[name] for name in ("ts", "comfort")}, "")


def is_canonical(values: pa.BinaryArray) -> pa.BooleanArray:
    """Where a message, less its closing brace, is how its result begins, byte for byte."""
    return pc.match_substring_regex(values, _IS_CANONICAL)


def is_plain(values: pa.BinaryArray) -> pa.BooleanArray:
    """Where a message has its members in the same order as the first ride, no other members and no surprises."""
    order = next(filter(None, map(_order, values.slice(0, _SEARCHED).to_pylist())), None)
    return pc.match_substring_regex(values, _plain(order)) if order else pa.repeat(False, len(values))


def _order(value: bytes) -> _Order | None:
    """The order of a ride's members; None if it is not one."""
    try:
        found = tuple(
            (name, tuple(content) if isinstance(content, dict) else ())
            for name, content in msgspec.json.decode(value, type=dict[str, Any]).items()
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    is_ride = sorted((name, tuple(sorted(axes))) for name, axes in found) == sorted(_CANONICAL_ORDER)
    return found if is_ride else None


@lru_cache(maxsize=64)
def _plain(order: _Order) -> str:
    return _expression(order, _PLAIN, "[ \t]*")


def is_result(values: pa.BinaryArray) -> pa.BooleanArray:
    """Where a message is a result as `jobs.rides.pricing` writes it, its places perhaps off the Earth."""
    return pc.match_substring_regex(values, _IS_RESULT)


_PLACE = pa.struct([(axis, pa.float64()) for axis in _POINT])


def read(values: pa.BinaryArray, schema: pa.Schema = RIDES_SCHEMA) -> pa.RecordBatch:
    """Read messages of a form above, ts and comfort as they were written.

    Args:
        schema: RIDES_SCHEMA, or RESULTS_SCHEMA for results.
    """
    if not len(values):
        return pa.RecordBatch.from_pylist([], schema)
    order = _RESULT_ORDER if schema is RESULTS_SCHEMA else _CANONICAL_ORDER
    members = pa.schema([(name, _PLACE if axes else schema.field(name).type) for name, axes in order])
    options = pyarrow.json.ParseOptions(explicit_schema=members, unexpected_field_behavior="error")
    lines = pc.binary_join_element_wise(values, b"\n", b"")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
    text = lines.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    one_block = pyarrow.json.ReadOptions(use_threads=False, block_size=text.size)
    (rides,) = pyarrow.json.read_json(pa.BufferReader(text), one_block, options).to_batches()
    places = {f"{name}.{axis}": rides.column(name).field(axis) for name in ("origin", "destination") for axis in _POINT}
    columns = [places[name] if name in places else rides.column(name) for name in schema.names]
    return pa.record_batch(columns, schema=schema)


def has_places(rides: pa.RecordBatch) -> pa.BooleanArray:
    """Where both points are on Earth."""
    is_good = np.ones(len(rides), dtype=bool)
    for name, limit in (("lat", 90), ("lon", 180)):
        for point in ("origin", "destination"):
            is_good &= np.abs(rides.column(f"{point}.{name}").to_numpy()) <= limit
    return pa.array(is_good)
