"""Rides priced column-wise: values of `rides_raw` in, outcomes out (`jobs.kafka.staged.OUTCOME_SCHEMA`).

A message takes the first of three ways that is open to it, and has the same result on each: a canonical message is its
result's beginning, byte for byte; a plain one is read column-wise; any other goes through `parse_ride`, which decides.
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

from jobs.kafka.staged import OUTCOME_SCHEMA
from jobs.rides import columnar
from jobs.rides.columnar import CANONICAL_LAYOUT, CANONICAL_TIMESTAMP, NUMBERS, RIDES_SCHEMA
from jobs.rides.contract import COMFORTS, Reason, RejectedError, Ride, normalise_timestamp, parse_ride
from jobs.rides.distance import Distance

_IS_CANONICAL_TIMESTAMP = f"^{CANONICAL_TIMESTAMP}$"
_numbers_of = attrgetter(*NUMBERS)
_WRITTEN = pa.array(COMFORTS.keys(), pa.string())
_COMFORTS = pa.array(COMFORTS.values(), pa.string())

T = TypeVar("T", pa.Array, pa.RecordBatch)
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]

# What a result needs of a canonical message besides its bytes.
_FARE_SCHEMA = pa.schema([RIDES_SCHEMA.field(name) for name in ("ride_id", *NUMBERS)])


class _Faults(NamedTuple):
    """Of each bad message by its row: why it is turned away, and a stack trace where nobody expected that."""

    reasons: dict[int, tuple[Reason, str]]
    stacktraces: dict[int, str]


class _Rides(NamedTuple):
    """Good rides: the message of each, and its values (fields of RIDES_SCHEMA)."""

    rows: Rows
    values: pa.RecordBatch


def price(values: pa.BinaryArray, distance: Distance) -> pa.RecordBatch:
    """Price messages of `rides_raw`.

    Args:
        values: message values; null where a message has none.
        distance: one of `jobs.rides.distance`.

    Returns:
        A batch of OUTCOME_SCHEMA with a row for each value, in the same order.
    """
    canonical = _canonical(values)
    others, faults = _others(values, np.delete(np.arange(len(values)), canonical.rows))
    rows = np.concatenate([canonical.rows, others.rows])
    fares = pa.concat_batches([canonical.values, others.values.select(_FARE_SCHEMA.names)])
    distance_km, price_total = _fares(fares, distance)
    is_finite = np.isfinite(price_total)
    for row in rows[~is_finite].tolist():
        faults.reasons[row] = Reason.NOT_FINITE, "price_total is too large a number"
    computed = pc.binary_join_element_wise(
        b',"distance_km":', _text(distance_km), b',"price_total":', _text(price_total), b"}", b""
    )
    behind_messages, behind_others = computed[: len(canonical.rows)], computed[len(canonical.rows) :]
    written = pc.binary_join_element_wise(_beginnings(others.values), behind_others, b"")
    added = pa.concat_arrays([behind_messages, written])
    keys = fares.column("ride_id").cast(pa.binary())

    extends = np.zeros(len(values), dtype=bool)
    extends[canonical.rows] = True
    of_ride = _positions(len(values), np.flatnonzero(is_finite), rows[is_finite])
    rejected, rejects = _rejects(faults)
    of_reject = _positions(len(values), np.arange(len(rejected)), rejected)
    return pa.record_batch(
        [
            keys.take(of_ride),
            pa.array(extends),
            added.take(of_ride),
            *(column.take(of_reject) for column in rejects),
        ],
        schema=OUTCOME_SCHEMA,
    )


def _rejects(faults: _Faults) -> tuple[Rows, list[pa.StringArray]]:
    """The rows of bad messages, and the columns of OUTCOME_SCHEMA that say why."""
    rows = np.fromiter(faults.reasons, dtype=np.int64, count=len(faults.reasons))
    reasons, messages = zip(*faults.reasons.values(), strict=True) if faults.reasons else ((), ())
    stacktraces = list(map(faults.stacktraces.get, faults.reasons))
    return rows, [pa.array(column, pa.string()) for column in (reasons, messages, stacktraces)]


def _fares(rides: pa.RecordBatch, distance: Distance) -> tuple[Numbers, Numbers]:
    """Distance in km and price of each ride (fields of _FARE_SCHEMA)."""
    number = {name: rides.column(name).to_numpy() for name in NUMBERS}
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


def _positions(count: int, positions: Rows, rows: Rows) -> pa.Int64Array:
    """For each of `count` messages, the position of what belongs to it; null if it is not among `rows`."""
    position = np.full(count, -1, dtype=np.int64)
    position[rows] = positions
    return pa.array(position, mask=position < 0)


def _canonical(messages: pa.BinaryArray) -> _Rides:
    """The rides of canonical messages; their values are fields of _FARE_SCHEMA."""
    is_canonical = columnar.is_canonical(messages).fill_null(False)
    rides = columnar.read_canonical(_kept(messages, is_canonical), _FARE_SCHEMA)
    is_good = columnar.has_places(rides)
    return _Rides(np.flatnonzero(_mask(is_canonical))[_mask(is_good)], _kept(rides, is_good))


def _others(messages: pa.BinaryArray, rows: Rows) -> tuple[_Rides, _Faults]:
    """The good rides among `rows`, in any order, and the faults of the others."""
    plain = _plain(messages, rows)
    parsed, faults = _one_by_one(messages, np.setdiff1d(rows, plain.rows, assume_unique=True))
    return _Rides(np.concatenate([plain.rows, parsed.rows]), pa.concat_batches([plain.values, parsed.values])), faults


def _plain(messages: pa.BinaryArray, rows: Rows) -> _Rides:
    """The rides of those of `rows` that are plain messages."""
    found = messages.take(pa.array(rows)).fill_null(b"")
    is_plain = columnar.is_plain(found)
    rides = columnar.read_plain(_kept(found, is_plain))
    rides = rides.set_column(1, "ts", normalised_timestamps(rides.column("ts")))
    rides = rides.set_column(2, "comfort", _COMFORTS.take(pc.index_in(rides.column("comfort"), _WRITTEN)))
    is_good = pc.and_(columnar.has_places(rides), rides.column("ts").is_valid())
    return _Rides(rows[_mask(is_plain)][_mask(is_good)], _kept(rides, is_good))


def _one_by_one(messages: pa.BinaryArray, rows: Rows) -> tuple[_Rides, _Faults]:
    """What `parse_ride` makes of each of `rows`."""
    parsed: dict[int, Ride] = {}
    reasons: dict[int, tuple[Reason, str]] = {}
    stacktraces: dict[int, str] = {}
    for row, message in zip(rows.tolist(), messages.take(pa.array(rows)).to_pylist(), strict=True):
        try:
            parsed[row] = parse_ride(message)
        except RejectedError as error:
            reasons[row] = error.args
        except Exception as error:  # one bad message never stops a batch
            reasons[row] = Reason.UNEXPECTED, _utf8(f"{type(error).__name__}: {error}")
            stacktraces[row] = _utf8(traceback.format_exc())
    rides = _Rides(np.fromiter(parsed, dtype=np.int64, count=len(parsed)), _columns(list(parsed.values())))
    return rides, _Faults(reasons, stacktraces)


def _utf8(text: str) -> str:
    # A lone surrogate, which JSON may have as an escape, must not stop the batch that reports it.
    return text.encode("utf-8", "backslashreplace").decode()


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


def _text(numbers: Numbers) -> pa.BinaryArray:
    """Numbers with the fewest digits that give the same double back."""
    return pc.cast(pa.array(numbers), pa.string()).cast(pa.binary())


def _beginnings(rides: pa.RecordBatch) -> pa.BinaryArray:
    """How the results of rides begin, up to what is computed. Nothing needs escaping: all is normalised by now."""
    parts: list[object] = []
    for before, name in CANONICAL_LAYOUT:
        column = rides.column(name)
        parts += [before, column if column.type == pa.string() else pc.cast(column, pa.string())]
    return pc.binary_join_element_wise(*parts, "", "").cast(pa.binary())
