"""Messages of `rides_raw` and `rides_result` as columns, for those whose form leaves no doubt that they are rides.

One regular expression tells such a form, byte by byte, so that what reads them afterwards need not check anything: of a
message without spaces, the colons tell where each value stands; others go through Arrow's JSON reader. All of it works
without the interpreter's lock. What the expressions do not take is no fault: it is left to those who look at one
message at a time.
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
from numpy.typing import NDArray

from jobs.rides.contract import COMFORTS

# As much as stays in a processor core's cache while it is read.
_READ_AT_ONCE = 4_000

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

# A number as JSON writers print a double: the fewest digits, at most 15 so that no other number has the same double. A
# whole one may have .0 behind it.
_POSITIVE = r"(?:(?:0\.0{0,3}|[1-9]\d{0,5}\.\d{0,4})[1-9](?:\d{0,3}[1-9])?|[1-9]\d{0,5}(?:\.0)?)"
_ZERO = r"0(?:\.0)?"
_CANONICAL = {
    "ride_id": f'"{CANONICAL_RIDE_ID}"',
    "ts": f'"{CANONICAL_TIMESTAMP}"',
    "comfort": f'"(?:{"|".join(sorted(set(COMFORTS.values())))})"',
    # −0 is left to `parse_ride`.
    "coordinate": f"(?:-?{_POSITIVE}|{_ZERO})",
    "amount": f"(?:{_POSITIVE}|{_ZERO})",
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

_Layout = tuple[tuple[str, str], ...]
# How a canonical message is written: each value's name, and what stands before it.
CANONICAL_LAYOUT: _Layout = (
    ('{"ride_id":"', "ride_id"),
    ('","ts":"', "ts"),
    ('","origin":{"lat":', "origin.lat"),
    (',"lon":', "origin.lon"),
    ('},"destination":{"lat":', "destination.lat"),
    (',"lon":', "destination.lon"),
    ('},"comfort":"', "comfort"),
    ('","duration_min":', "duration_min"),
    (',"price_base":', "price_base"),
    (',"price_per_km":', "price_per_km"),
    (',"price_per_min":', "price_per_min"),
)
_RESULT_LAYOUT: _Layout = (
    *CANONICAL_LAYOUT,
    (',"distance_km":', "distance_km"),
    (',"price_total":', "price_total"),
)
_COLONS_OF_A_TIMESTAMP = 2

Offsets = NDArray[np.int32]


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


def read_canonical(values: pa.BinaryArray, schema: pa.Schema = RIDES_SCHEMA) -> pa.RecordBatch:
    """Canonical messages as a batch of RIDES_SCHEMA, or of some of its fields."""
    return _read_laid_out(values, CANONICAL_LAYOUT, schema)


def read_results(values: pa.BinaryArray) -> pa.RecordBatch:
    """Results as a batch of RESULTS_SCHEMA."""
    return _read_laid_out(values, _RESULT_LAYOUT, RESULTS_SCHEMA)


def _read_laid_out(values: pa.BinaryArray, layout: _Layout, schema: pa.Schema) -> pa.RecordBatch:
    """Read messages that hold nothing but a layout's texts, each with its value behind it, and a closing brace."""
    parts = [
        _read_part(values.slice(start, _READ_AT_ONCE), layout, schema) for start in range(0, len(values), _READ_AT_ONCE)
    ]
    return pa.concat_batches(parts) if parts else pa.RecordBatch.from_pylist([], schema)


def _read_part(values: pa.BinaryArray, layout: _Layout, schema: pa.Schema) -> pa.RecordBatch:
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    content = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    colons = np.flatnonzero(content == ord(":")).astype(np.int32).reshape(len(values), -1) + offsets[0]
    begins: list[Offsets] = []
    ends: list[Offsets] = []
    passed = 0
    for before, name in layout:
        passed += before.count(":")
        begin = colons[:, passed - 1] + (len(before) - before.rindex(":"))
        if begins:
            ends.append(begin - len(before))
        begins.append(begin)
        passed += _COLONS_OF_A_TIMESTAMP if name == "ts" else 0
    ends.append(offsets[1:] - 1)
    columns = {
        name: pc.cast(_between(values, begin, end), schema.field(name).type).drop_null()
        for (_, name), begin, end in zip(layout, begins, ends, strict=True)
        if name in schema.names
    }
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _between(values: pa.BinaryArray, begins: Offsets, ends: Offsets) -> pa.StringArray:
    """What stands between offsets of the values' buffer, each followed by a null for what lies before the next."""
    offsets = np.empty(2 * len(begins) + 1, np.int32)
    offsets[:-1:2], offsets[1::2], offsets[-1] = begins, ends, ends[-1]
    every_other = np.full((len(offsets) + 7) // 8, 0b01010101, np.uint8)
    buffers = [pa.py_buffer(every_other), pa.py_buffer(offsets), values.buffers()[2]]
    return pa.Array.from_buffers(pa.string(), 2 * len(begins), buffers)


_PLACE = pa.struct([(axis, pa.float64()) for axis in _POINT])
_PLAIN_MEMBERS = pa.schema(
    [(name, _PLACE if axes else RIDES_SCHEMA.field(name).type) for name, axes in _CANONICAL_ORDER]
)


def read_plain(values: pa.BinaryArray) -> pa.RecordBatch:
    """Plain messages as a batch of RIDES_SCHEMA, ts and comfort as they were written."""
    if not len(values):
        return pa.RecordBatch.from_pylist([], RIDES_SCHEMA)
    options = pyarrow.json.ParseOptions(explicit_schema=_PLAIN_MEMBERS, unexpected_field_behavior="error")
    lines = pc.binary_join_element_wise(values, b"\n", b"")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
    text = lines.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    one_block = pyarrow.json.ReadOptions(use_threads=False, block_size=text.size)
    (rides,) = pyarrow.json.read_json(pa.BufferReader(text), one_block, options).to_batches()
    places = {f"{name}.{axis}": rides.column(name).field(axis) for name in ("origin", "destination") for axis in _POINT}
    columns = [places[name] if name in places else rides.column(name) for name in RIDES_SCHEMA.names]
    return pa.record_batch(columns, schema=RIDES_SCHEMA)


def has_places(rides: pa.RecordBatch) -> pa.BooleanArray:
    """Where both points are on Earth."""
    is_good = np.ones(len(rides), dtype=bool)
    for name, limit in (("lat", 90), ("lon", 180)):
        for point in ("origin", "destination"):
            is_good &= np.abs(rides.column(f"{point}.{name}").to_numpy()) <= limit
    return pa.array(is_good)
