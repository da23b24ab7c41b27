"""Price messages of `rides_raw` column by column; returns outcomes (`jobs.kafka.staged.OUTCOME_SCHEMA`).

msgspec decodes each message, and its fields are checked one column at a time. A message that is not certain to be valid
goes to `parse_ride`. Only `parse_ride` rejects messages and gives reasons.
"""

from __future__ import annotations

import traceback
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.kafka.staged import make_outcome_batch
from jobs.rides.columnar import IS_RIDE_ID, IS_TIMESTAMP, RIDES_SCHEMA, make_columns
from jobs.rides.contract import COMFORTS, Point, Reason, Ride, parse_ride
from jobs.rides.distance import Distance
from jobs.rides.fields import RAW_FIELDS, RESULT_FIELDS, Kind, make_json_layout
from jobs.strict_json import RejectedError, normalise_timestamp

_WRITTEN = pa.array(COMFORTS.keys(), pa.string())
_COMFORTS = pa.array(COMFORTS.values(), pa.string())
_LAYOUT, _END = make_json_layout(RESULT_FIELDS)
_NUMBERS = {field.path: field.kind for field in RAW_FIELDS if not field.kind.is_text}
_LIMITS = {
    Kind.LATITUDE: (-90, 90),
    Kind.LONGITUDE: (-180, 180),
    Kind.AMOUNT: (0, np.finfo(np.float64).max),
}

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]


class _Place(Point, frozen=True, gc=False, forbid_unknown_fields=False):
    """A point that may have further fields."""


class _Ride(Ride, frozen=True, gc=False, forbid_unknown_fields=False):
    """A ride that may have further fields."""

    origin: _Place
    destination: _Place


_decode = msgspec.json.Decoder(_Ride).decode
# The number of mandatory keys, including nested ones, and the number of those that repeat the name of another.
_MANDATORY = [field.path for field in RAW_FIELDS if field.default is None]
_KEYS = len({*_MANDATORY, *(path.partition(".")[0] for path in _MANDATORY)})
_REPEATED_KEYS = len(_MANDATORY) - len({path.rpartition(".")[2] for path in _MANDATORY})


class _Fault(NamedTuple):
    """The reason to reject a message, with a stack trace for an unexpected error."""

    reason: str
    text: str
    stacktrace: str | None = None


class _Rides(NamedTuple):
    """Valid rides: the row of each message, and its values (a batch of RIDES_SCHEMA)."""

    rows: Rows
    values: pa.RecordBatch


def price(messages: pa.RecordBatch, distance: Distance) -> pa.RecordBatch:
    """Price messages of `rides_raw`.

    Args:
        messages: a batch of MESSAGE_SCHEMA.
        distance: one of `jobs.rides.distance`.

    Returns:
        A batch of OUTCOME_SCHEMA with a row for each message, in the same order.
    """
    count = len(messages)
    values = messages.column("value")
    read = _read(values)
    parsed, faults = _parse(values, np.delete(np.arange(count), read.rows))
    rows = np.concatenate([read.rows, parsed.rows])
    rides = pa.concat_batches([read.values, parsed.values])
    distance_km, price_total = _compute_fares(rides, distance)
    is_finite = np.isfinite(price_total)
    for row in rows[~is_finite].tolist():
        faults[row] = _Fault(Reason.NOT_FINITE, "price_total is too large a number")
    positions = _find_positions(count, np.flatnonzero(is_finite), rows[is_finite])
    row_faults = list(map(faults.get, range(count)))
    return make_outcome_batch(
        messages,
        keys=rides.column("ride_id").cast(pa.binary()).take(positions),
        values=_write_results(rides, distance_km, price_total).take(positions),
        reasons=[fault and fault.reason for fault in row_faults],
        texts=[fault and fault.text for fault in row_faults],
        stacktraces=[fault and fault.stacktrace for fault in row_faults],
    )


def _read(messages: pa.BinaryArray) -> _Rides:
    """Decode the messages that `parse_ride` is certain to accept, and normalise them as it does."""
    decoded = list(map(_try_decode, messages.to_pylist()))
    rows = np.flatnonzero([ride is not None for ride in decoded])
    repeats = _may_repeat_keys(messages if len(rows) == len(messages) else messages.take(pa.array(rows)))
    rows = rows[~repeats]
    rides = make_columns([decoded[row] for row in rows.tolist()], RIDES_SCHEMA)
    ride_id = pc.ascii_lower(rides.column("ride_id"))
    ts = normalise_timestamps(rides.column("ts"))
    comfort = _COMFORTS.take(pc.index_in(rides.column("comfort"), _WRITTEN))
    numbers = {path: rides.column(path) for path in _NUMBERS}
    rides = pa.record_batch([ride_id, ts, comfort, *numbers.values()], schema=RIDES_SCHEMA)
    is_good = (
        _to_mask(pc.match_substring_regex(ride_id, IS_RIDE_ID)) & _to_mask(ts.is_valid()) & _to_mask(comfort.is_valid())
    )
    for path, kind in _NUMBERS.items():
        lowest, highest = _LIMITS[kind]
        number = numbers[path].to_numpy()
        is_good &= (lowest <= number) & (number <= highest)
    return _Rides(rows, rides) if is_good.all() else _Rides(rows[is_good], rides.filter(pa.array(is_good)))


def _try_decode(value: bytes | None) -> Ride | None:
    try:
        return _decode(value.decode())  # type: ignore[union-attr]
    except Exception:  # parse_ride finds the reason
        return None


def _may_repeat_keys(messages: pa.BinaryArray) -> Mask:
    """Find decoded messages in which an object, at any level, may repeat a key.

    msgspec keeps the last of repeated keys and ignores the keys of unknown fields.
    """
    content, offsets = _read_buffers(messages)
    # The colon of a key follows its closing quote or white space, but so may a colon in a string. So the count is never
    # below the number of keys. Each mandatory key occurs at least once, so a count of only these means no repetition.
    before, after = content[:-1], content[1:]
    keys = np.flatnonzero((after == ord(":")) & ((before == ord('"')) | (before <= ord(" "))))
    counts = np.diff(np.searchsorted(keys, offsets))
    repeats = counts > _KEYS
    if repeats.any():
        more = messages if repeats.all() else messages.filter(pa.array(repeats))
        repeats[repeats] = _count_different_keys(more) < counts[repeats] - _REPEATED_KEYS
        for row in np.flatnonzero(repeats).tolist():
            repeats[row] = _count_keys(messages[row].as_py()) < counts[row]
    return repeats


def _count_keys(message: bytes) -> int:
    """Count the keys of all objects in a message, without repeated ones; 0 if it cannot be decoded."""

    def count(content: object) -> int:
        if isinstance(content, dict):
            return len(content) + sum(map(count, content.values()))
        return sum(map(count, content)) if isinstance(content, list) else 0

    try:
        return count(msgspec.json.decode(message))
    except Exception:
        return 0


def _count_different_keys(messages: pa.BinaryArray) -> NDArray[np.uint8]:
    """Count the keys of each message that certainly differ from all other keys in it.

    The text of a key is between the quote before its colon and the quote before that one. Equal keys have equal texts,
    unless a text has a backslash; those keys are not counted.
    """
    content, offsets = _read_buffers(messages)
    quotes = np.flatnonzero(content == ord('"')).astype(np.int32)
    closing = np.flatnonzero(content[quotes + 1] == ord(":"))
    edges = np.zeros(2 * len(closing) + 1, np.int32)
    edges[:-1:2], edges[1::2], edges[-1] = np.append(np.int32(-1), quotes)[closing] + 1, quotes[closing], len(content)
    every_other = np.full(len(edges) // 8 + 1, 0b01010101, np.uint8)
    buffers = [pa.py_buffer(every_other), pa.py_buffer(edges), pa.py_buffer(content)]
    texts = pa.Array.from_buffers(pa.binary(), 2 * len(closing), buffers).dictionary_encode()
    # Texts from the 64th on share a bit, so they count as one.
    bits = np.left_shift(np.uint64(1), np.minimum(np.arange(len(texts.dictionary), dtype=np.uint64), 63))
    bits[_to_mask(pc.match_substring(texts.dictionary, "\\"))] = 0
    key_bits = np.append(bits[texts.indices.drop_null().to_numpy()], np.uint64(0))
    begins = np.searchsorted(quotes[closing], offsets[:-1])
    return np.bitwise_count(np.bitwise_or.reduceat(key_bits, begins))


def _read_buffers(values: pa.BinaryArray) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The bytes of all values, and the offsets of their beginnings and of the last one's end."""
    _, offsets, content = values.buffers()
    edges = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return np.frombuffer(content or b"", np.uint8)[edges[0] : edges[-1]], edges - edges[0]


def _parse(messages: pa.BinaryArray, rows: Rows) -> tuple[_Rides, dict[int, _Fault]]:
    """Parse each of `rows` with `parse_ride`; returns the valid rides, and the faults of the others by row."""
    parsed: dict[int, Ride] = {}
    faults: dict[int, _Fault] = {}
    for row, message in zip(rows.tolist(), messages.take(pa.array(rows)).to_pylist(), strict=True):
        try:
            parsed[row] = parse_ride(message)
        except RejectedError as error:
            faults[row] = _Fault(*error.args)
        except Exception as error:  # one bad message never stops a batch
            text = _escape_surrogates(f"{type(error).__name__}: {error}")
            faults[row] = _Fault(Reason.UNEXPECTED, text, _escape_surrogates(traceback.format_exc()))
    rides = make_columns(list(parsed.values()), RIDES_SCHEMA)
    return _Rides(np.fromiter(parsed, np.int64, len(parsed)), rides), faults


def _escape_surrogates(text: str) -> str:
    # JSON can have a lone surrogate as an escape, which UTF-8 cannot encode.
    return text.encode("utf-8", "backslashreplace").decode()


def normalise_timestamps(ts: pa.StringArray) -> pa.StringArray:
    """Times as `normalise_timestamp` returns them; null for those that it rejects."""
    is_other = pc.invert(pc.match_substring_regex(ts, IS_TIMESTAMP))
    others = [_try_normalise_timestamp(text) for text in ts.filter(is_other).to_pylist()]
    return pc.replace_with_mask(ts, is_other, pa.array(others, pa.string())) if others else ts


def _try_normalise_timestamp(text: str) -> str | None:
    try:
        return normalise_timestamp(text)
    except RejectedError:
        return None


def _compute_fares(rides: pa.RecordBatch, distance: Distance) -> tuple[Numbers, Numbers]:
    """Distance in km and price of each ride (a row of RIDES_SCHEMA)."""
    number = {path: rides.column(path).to_numpy() for path in _NUMBERS}
    with np.errstate(over="ignore", invalid="ignore"):
        distance_km = distance(
            number["origin.lat"], number["origin.lon"], number["destination.lat"], number["destination.lon"]
        )
        price_total = (
            number["price_base"]
            + distance_km * number["price_per_km"]
            + number["duration_min"] * number["price_per_min"]
        )
    return distance_km, price_total


def _write_results(rides: pa.RecordBatch, distance_km: Numbers, price_total: Numbers) -> pa.BinaryArray:
    """Write rides as JSON, each number with the fewest digits that parse to the same double.

    Normalised values need no escapes.
    """
    column = dict(zip(rides.schema.names, rides.columns, strict=True))
    column |= {"distance_km": pa.array(distance_km), "price_total": pa.array(price_total)}
    parts = [part for before, field in _LAYOUT for part in (before, column[field.path].cast(pa.string()))]
    return pc.binary_join_element_wise(*parts, _END, "").cast(pa.binary())


def _find_positions(count: int, positions: Rows, rows: Rows) -> pa.Int64Array:
    """For each of `count` messages, its position; null if the message is not in `rows`."""
    position = np.full(count, -1, dtype=np.int64)
    position[rows] = positions
    return pa.array(position, mask=position < 0)


def _to_mask(array: pa.BooleanArray) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False)
    return mask
