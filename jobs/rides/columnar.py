"""Columns of decoded rides and results, and the canonical forms of their ids and times."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import pyarrow as pa

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

IS_RIDE_ID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
# A time as `normalise_timestamp` returns it.
IS_TIMESTAMP = (
    r"^(?:(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    rf"|(?:\d\d{_LEAP}|{_LEAP}00)-02-29)"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z$"
)


def columns(rides: Sequence[object], schema: pa.Schema) -> pa.RecordBatch:
    """Build a batch from the attributes of rides that a schema names; `origin.lat` is the `lat` of `origin`."""
    arrays = []
    for field in schema:
        values = map(attrgetter(field.name), rides)
        if field.type == pa.float64():
            arrays.append(pa.array(np.fromiter(values, np.float64, len(rides))))
        else:
            arrays.append(pa.array(list(values), field.type))
    return pa.record_batch(arrays, schema=schema)
