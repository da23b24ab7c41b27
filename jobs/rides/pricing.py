"""Rides priced column-wise: values of `rides_raw` in, values of `rides_result` and rejects out.

A message takes the first of three ways that is open to it, and has the same result, byte for byte, on each: a canonical
message is its result's beginning; a plain one is read column-wise; any other goes through `parse_ride`, which decides.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.rides import columnar
from jobs.rides.columnar import CANONICAL_LAYOUT, CANONICAL_TIMESTAMP, NUMBERS, RIDES_SCHEMA
from jobs.rides.contract import COMFORTS, Reason, RejectedError, Ride, normalise_timestamp, parse_ride
from jobs.rides.distance import Distance

# What `price` returns, a row for each message in the order given. A good ride has key and value of rides_result;
# a reject has a reason, a message for people and, for what nobody expected, a stack trace.
PRICED_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("stacktrace", pa.string()),
    ]
)

_IS_CANONICAL_TIMESTAMP = f"^{CANONICAL_TIMESTAMP}$"
_numbers_of = attrgetter(*NUMBERS)
_WRITTEN = pa.array(COMFORTS.keys(), pa.string())
_COMFORTS = pa.array(COMFORTS.values(), pa.string())

T = TypeVar("T", pa.Array, pa.RecordBatch)
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Fault = tuple[Reason, str, str | None]


class _Rides(NamedTuple):
    """Good rides: the message of each, its values (RIDES_SCHEMA) and how its result begins."""

    rows: Rows
    values: pa.RecordBatch
    beginnings: pa.BinaryArray


def price(values: pa.BinaryArray, distance: Distance) -> pa.RecordBatch:
    """Price messages of `rides_raw`.

    Args:
        values: message values; null where a message has none.
        distance: one of `jobs.rides.distance`.

    Returns:
        A batch of PRICED_SCHEMA with a row for each value, in the same order.
    """
    rides, faults = _parse(values.fill_null(b""))
    number = {name: rides.values.column(name).to_numpy() for name in NUMBERS}
    with np.errstate(over="ignore", invalid="ignore"):
        distance_km = distance(
            number["origin.lat"], number["origin.lon"], number["destination.lat"], number["destination.lon"]
        )
        price_total = (
            number["price_base"]
            + distance_km * number["price_per_km"]
            + number["duration_min"] * number["price_per_min"]
        )
    for row in rides.rows[~np.isfinite(price_total)].tolist():
        faults[row] = Reason.NOT_FINITE, "price_total is too large a number", None
    results = pc.binary_join_element_wise(
        rides.beginnings, b',"distance_km":', _text(distance_km), b',"price_total":', _text(price_total), b"}", b""
    )
    return _assemble(len(values), rides.rows, rides.values.column("ride_id"), results, faults)


def _parse(messages: pa.BinaryArray) -> tuple[_Rides, dict[int, Fault]]:
    """Return the good rides, in any order, and the faults of all other messages by row."""
    all_rows = np.arange(len(messages))
    canonical = _canonical(messages, all_rows)
    if len(canonical.rows) == len(messages):
        return canonical, {}
    left = np.delete(all_rows, canonical.rows)
    plain = _plain(messages.take(pa.array(left)), left)
    left = np.setdiff1d(left, plain.rows, assume_unique=True)
    parsed, faults = _one_by_one(messages, left)
    rows, values, beginnings = zip(canonical, plain, parsed, strict=True)
    return _Rides(np.concatenate(rows), pa.concat_batches(values), pa.concat_arrays(beginnings)), faults


def _canonical(messages: pa.BinaryArray, rows: Rows) -> _Rides:
    """The rides of canonical messages; `rows` numbers the messages."""
    is_canonical = columnar.is_canonical(messages)
    found = _kept(messages, is_canonical)
    rides = columnar.read_canonical(found)
    is_good = columnar.has_places(rides)
    beginnings = pc.binary_slice(found, 0, -1)
    return _Rides(rows[_mask(is_canonical)][_mask(is_good)], _kept(rides, is_good), _kept(beginnings, is_good))


def _plain(messages: pa.BinaryArray, rows: Rows) -> _Rides:
    """The rides of plain messages; `rows` numbers the messages."""
    is_plain = columnar.is_plain(messages)
    rides = columnar.read_plain(_kept(messages, is_plain))
    rides = rides.set_column(1, "ts", normalised_timestamps(rides.column("ts")))
    rides = rides.set_column(2, "comfort", _COMFORTS.take(pc.index_in(rides.column("comfort"), _WRITTEN)))
    is_good = pc.and_(columnar.has_places(rides), rides.column("ts").is_valid())
    kept = _kept(rides, is_good)
    return _Rides(rows[_mask(is_plain)][_mask(is_good)], kept, _beginnings(kept))


def _one_by_one(messages: pa.BinaryArray, rows: Rows) -> tuple[_Rides, dict[int, Fault]]:
    """What `parse_ride` makes of each of `rows`."""
    parsed: dict[int, Ride] = {}
    faults: dict[int, Fault] = {}
    for row, message in zip(rows.tolist(), messages.take(pa.array(rows)).to_pylist(), strict=True):
        try:
            parsed[row] = parse_ride(message)
        except RejectedError as error:
            faults[row] = error.reason, str(error), None
        except Exception as error:  # one bad message never stops a batch
            faults[row] = Reason.UNEXPECTED, f"{type(error).__name__}: {error}", traceback.format_exc()
    rides = _columns(list(parsed.values()))
    return _Rides(np.fromiter(parsed, dtype=np.int64, count=len(parsed)), rides, _beginnings(rides)), faults


def _columns(rides: Sequence[Ride]) -> pa.RecordBatch:
    """Rides as a batch of RIDES_SCHEMA."""
    numbers = np.array(list(map(_numbers_of, rides)), dtype=np.float64).reshape(-1, len(NUMBERS))
    texts = [pa.array([getattr(ride, name) for ride in rides], pa.string()) for name in ("ride_id", "ts", "comfort")]
    return pa.record_batch([*texts, *map(pa.array, np.ascontiguousarray(numbers.T))], schema=RIDES_SCHEMA)


def normalised_timestamps(ts: pa.StringArray) -> pa.StringArray:
    """Times as `normalise_timestamp` returns them; null where it rejects."""
    is_other = pc.invert(pc.match_substring_regex(ts, _IS_CANONICAL_TIMESTAMP))
    others = [_try_normalise_timestamp(text) for text in ts.filter(is_other).to_pylist()]
    return pc.replace_with_mask(ts, is_other, pa.array(others, pa.string())) if others else ts


def _try_normalise_timestamp(text: str) -> str | None:
    try:
        return normalise_timestamp(text)
    except RejectedError:
        return None


def _mask(array: pa.BooleanArray) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False)
    return mask


def _kept(of: T, mask: pa.BooleanArray) -> T:
    """What a mask leaves of an array or a batch; all of it is not copied."""
    return of if mask.false_count == 0 else of.filter(mask)


def _text(numbers: NDArray[np.float64]) -> pa.BinaryArray:
    """Numbers with the fewest digits that give the same double back."""
    return pc.cast(pa.array(numbers), pa.string()).cast(pa.binary())


def _beginnings(rides: pa.RecordBatch) -> pa.BinaryArray:
    """How the results of rides begin, up to what is computed. Nothing needs escaping: all is normalised by now."""
    parts: list[object] = []
    for before, name in CANONICAL_LAYOUT:
        column = rides.column(name)
        parts += [before, column if column.type == pa.string() else pc.cast(column, pa.string())]
    return pc.binary_join_element_wise(*parts, "", "").cast(pa.binary())


def _assemble(
    count: int, rows: NDArray[np.int64], keys: pa.StringArray, results: pa.BinaryArray, faults: dict[int, Fault]
) -> pa.RecordBatch:
    """Lay good rides and faults out as one batch of PRICED_SCHEMA in the order of the messages.

    Args:
        rows: the message of each key and result; one that is among the faults counts as a fault.
    """
    keys = keys.cast(pa.binary())
    if not faults and (rows[:-1] < rows[1:]).all():
        no_text = pa.nulls(count, pa.string())
        return pa.record_batch([keys, results, no_text, no_text, no_text], schema=PRICED_SCHEMA)
    position = np.full(count, -1, dtype=np.int64)
    position[rows] = np.arange(len(rows))
    position[list(faults)] = -1
    index = pa.array(position, mask=position < 0)
    reasons, messages, stacktraces = (
        pc.replace_with_mask(
            pa.nulls(count, pa.string()),
            np.isin(np.arange(count), list(faults)),
            pa.array([faults[row][field] for row in sorted(faults)], pa.string()),
        )
        for field in range(3)
    )
    return pa.record_batch(
        [keys.take(index), results.take(index), reasons, messages, stacktraces], schema=PRICED_SCHEMA
    )
