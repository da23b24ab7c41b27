"""Rides priced column-wise: values of `rides_raw` in, values of `rides_result` and rejects out.

A row takes the fast path only when column-wise checks are certain that `parse_ride` would accept it and return the
very same ride; every other row is handed to `parse_ride`, which decides.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.rides.contract import COMFORTS, Point, Reason, RejectedError, Ride, normalise_timestamp, parse_ride
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

_NUMBERS = (
    "origin.lat",
    "origin.lon",
    "destination.lat",
    "destination.lon",
    "duration_min",
    "price_base",
    "price_per_km",
    "price_per_min",
)
_RIDES_SCHEMA = pa.schema(
    [
        ("ride_id", pa.string()),
        ("ts", pa.string()),
        ("comfort", pa.string()),
        *((name, pa.float64()) for name in _NUMBERS),
    ]
)
_numbers_of = attrgetter(*_NUMBERS)
_decode = msgspec.json.Decoder(Ride).decode

# Each member of a ride puts a colon into its JSON; all further colons are inside its strings.
_COLONS_OF_MEMBERS = len(Ride.__struct_fields__) + 2 * len(Point.__struct_fields__)
CANONICAL_RIDE_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
# A time as `normalise_timestamp` returns it. 29 February is left to that function: not every year has one.
CANONICAL_TIMESTAMP = (
    r"^(000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-"
    r"((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z$"
)

Mask = NDArray[np.bool_]
Fault = tuple[Reason, str, str | None]


def price(values: pa.BinaryArray, distance: Distance) -> pa.RecordBatch:
    """Price messages of `rides_raw`.

    Args:
        values: message values; null where a message has none.
        distance: one of `jobs.rides.distance`.

    Returns:
        A batch of PRICED_SCHEMA with a row for each value, in the same order.
    """
    rows, rides, faults = _parse(values)
    number = {name: rides.column(name).to_numpy() for name in _NUMBERS}
    with np.errstate(over="ignore", invalid="ignore"):
        distance_km = distance(
            number["origin.lat"], number["origin.lon"], number["destination.lat"], number["destination.lon"]
        )
        price_total = (
            number["price_base"]
            + distance_km * number["price_per_km"]
            + number["duration_min"] * number["price_per_min"]
        )
    finite = np.isfinite(price_total)
    for row in rows[~finite].tolist():
        faults[row] = Reason.NOT_FINITE, "price_total is too large a number", None
    results = _encode(rides, pa.array(distance_km), pa.array(price_total))
    return _assemble(len(values), rows, rides.column("ride_id"), results, faults)


def _parse(values: pa.BinaryArray) -> tuple[NDArray[np.int64], pa.RecordBatch, dict[int, Fault]]:
    """Return the rows of good rides (in any order), those rides as columns, and the faults of all other rows."""
    decoded: list[Ride] = []
    undecoded: list[int] = []
    for row, value in enumerate(values.fill_null(b"").to_pylist()):
        try:
            decoded.append(_decode(value))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            undecoded.append(row)
    rows = np.delete(np.arange(len(values)), undecoded)
    raw = values.take(pa.array(rows)) if undecoded else values
    rides, certain = _normalise(raw, _columns(decoded))
    if len(rows) == len(values) and certain.all():
        return rows, rides, {}

    faults: dict[int, Fault] = {}
    parsed: dict[int, Ride] = {}
    is_left = np.ones(len(values), dtype=bool)
    is_left[rows[certain]] = False
    for row in np.flatnonzero(is_left).tolist():
        try:
            parsed[row] = parse_ride(values[row].as_py())
        except RejectedError as error:
            faults[row] = error.reason, str(error), None
        except Exception as error:  # one bad message never stops a batch
            faults[row] = Reason.UNEXPECTED, f"{type(error).__name__}: {error}", traceback.format_exc()
    rows = np.concatenate([rows[certain], np.fromiter(parsed, dtype=np.int64, count=len(parsed))])
    rides = pa.concat_batches([rides.filter(pa.array(certain)), _columns(list(parsed.values()))])
    return rows, rides, faults


def _columns(rides: Sequence[Ride]) -> pa.RecordBatch:
    """Rides as columns, comfort without aliases (null where it is none)."""
    numbers = np.fromiter(
        chain.from_iterable(map(_numbers_of, rides)), dtype=np.float64, count=len(_NUMBERS) * len(rides)
    )
    columns = [
        pa.array([ride.ride_id for ride in rides], pa.string()),
        pa.array([ride.ts for ride in rides], pa.string()),
        pa.array([COMFORTS.get(ride.comfort) for ride in rides], pa.string()),
    ]
    columns += [pa.array(column) for column in np.ascontiguousarray(numbers.reshape(-1, len(_NUMBERS)).T)]
    return pa.record_batch(columns, schema=_RIDES_SCHEMA)


def _normalise(raw: pa.BinaryArray, rides: pa.RecordBatch) -> tuple[pa.RecordBatch, Mask]:
    """Return the rides with normalised ts, and where they are certainly what `parse_ride` returns."""
    certain = _without_repeated_members(raw, rides.column("ts"))
    certain &= _mask(pc.match_substring_regex(rides.column("ride_id"), CANONICAL_RIDE_ID))
    for name, limit in (("lat", 90), ("lon", 180)):
        for point in ("origin", "destination"):
            certain &= np.abs(rides.column(f"{point}.{name}").to_numpy()) <= limit
    for name in _NUMBERS[4:]:
        certain &= rides.column(name).to_numpy() >= 0
    ts = normalised_timestamps(rides.column("ts"))
    certain &= _mask(ts.is_valid()) & _mask(rides.column("comfort").is_valid())
    return rides.set_column(1, "ts", ts), certain


def _without_repeated_members(raw: pa.BinaryArray, ts: pa.StringArray) -> Mask:
    """Where a decoded ride certainly repeats no key: the decoder keeps the last one silently.

    All members are there and no other (the decoder saw to that, because no member of Ride has a default), so a
    further one shows as a further colon, unless an escape (\\u003a) hides or adds one.
    """
    offsets = np.frombuffer(raw.buffers()[1], dtype=np.int32)[raw.offset : raw.offset + len(raw) + 1]
    data = np.frombuffer(raw.buffers()[2] or b"", dtype=np.uint8)[: offsets[-1]]
    colons = np.diff(np.searchsorted(np.flatnonzero(data == ord(":")), offsets))
    certain: Mask = colons == _COLONS_OF_MEMBERS + pc.count_substring(ts, ":").to_numpy()
    if (data == ord("\\")).any():
        certain &= _mask(pc.less(pc.find_substring(raw, b"\\"), 0))
    return certain


def normalised_timestamps(ts: pa.StringArray) -> pa.StringArray:
    """Times as `normalise_timestamp` returns them; null where it rejects."""
    is_other = pc.invert(pc.match_substring_regex(ts, CANONICAL_TIMESTAMP))
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


def _encode(rides: pa.RecordBatch, distance_km: pa.DoubleArray, price_total: pa.DoubleArray) -> pa.StringArray:
    """Return the values of rides_result: JSON whose numbers have the fewest digits that give the same double back.

    Nothing needs escaping: ride_id, ts and comfort are normalised by now.
    """

    def column(name: str) -> Any:
        array = rides.column(name)
        return array if array.type == pa.string() else pc.cast(array, pa.string())

    return pc.binary_join_element_wise(
        '{"ride_id":"',
        column("ride_id"),
        '","ts":"',
        column("ts"),
        '","origin":{"lat":',
        column("origin.lat"),
        ',"lon":',
        column("origin.lon"),
        '},"destination":{"lat":',
        column("destination.lat"),
        ',"lon":',
        column("destination.lon"),
        '},"comfort":"',
        column("comfort"),
        '","duration_min":',
        column("duration_min"),
        ',"price_base":',
        column("price_base"),
        ',"price_per_km":',
        column("price_per_km"),
        ',"price_per_min":',
        column("price_per_min"),
        ',"distance_km":',
        pc.cast(distance_km, pa.string()),
        ',"price_total":',
        pc.cast(price_total, pa.string()),
        "}",
        "",
    )


def _assemble(
    count: int, rows: NDArray[np.int64], keys: pa.StringArray, results: pa.StringArray, faults: dict[int, Fault]
) -> pa.RecordBatch:
    """Lay good rides and faults out as one batch of PRICED_SCHEMA in the order of the messages.

    Args:
        rows: the message of each key and result; one that is among the faults counts as a fault.
    """
    keys, results = keys.cast(pa.binary()), results.cast(pa.binary())
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
