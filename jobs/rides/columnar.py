"""Arrow columns of decoded rides and results, and the canonical forms of ids and times."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import pyarrow as pa

from jobs.rides.fields import COMPUTED_FIELDS, RAW_FIELDS, sort_for_table

# Text columns first, as in the BigQuery table.
RIDES_SCHEMA = pa.schema(
    [(field.path, pa.string() if field.kind.is_text else pa.float64()) for field in sort_for_table(RAW_FIELDS)]
)
RESULTS_SCHEMA = pa.schema([*RIDES_SCHEMA, *((field.path, pa.float64()) for field in COMPUTED_FIELDS)])

IS_RIDE_ID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
# A time as `normalise_timestamp` returns it.
IS_TIMESTAMP = (
    r"^(?:(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    rf"|(?:\d\d{_LEAP}|{_LEAP}00)-02-29)"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z$"
)


def make_columns(rides: Sequence[object], schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch from the attributes of rides that a schema names; `origin.lat` is the `lat` of `origin`."""
    arrays = []
    for field in schema:
        values = map(attrgetter(field.name), rides)
        if field.type == pa.float64():
            arrays.append(pa.array(np.fromiter(values, np.float64, len(rides))))
        else:
            arrays.append(pa.array(list(values), field.type))
    return pa.record_batch(arrays, schema=schema)
