"""TransformJSON's work: turn values of rides_result into flat rows with agent_timestamp for the sinks.

`SINK_SCHEMA` is the one definition of a row in both sinks. Parquet has the same columns; in Elasticsearch, each pair of
coordinates is a geo_point (`make_documents`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from jobs.files import Folder, read_chunk
from jobs.kafka.staged import REJECT_SCHEMA, Chunk, Manifest, make_reject_batch
from jobs.parallel import prefetch
from jobs.rides.columnar import IS_RIDE_ID, IS_TIMESTAMP, RESULTS_SCHEMA, make_columns
from jobs.rides.contract import Reason
from jobs.rides.fields import RESULT_FIELDS, SINK_FIELDS, Kind, make_json_layout, sort_for_table

_UTC = pa.timestamp("us", "UTC")
_ARROW_TYPES = {
    Kind.UUID: pa.string(),
    Kind.TIME: _UTC,
    Kind.COMFORT: pa.string(),
    Kind.LATITUDE: pa.float64(),
    Kind.LONGITUDE: pa.float64(),
    Kind.AMOUNT: pa.float64(),
    Kind.PARTITION: pa.int32(),
    Kind.OFFSET: pa.int64(),
}
SINK_SCHEMA = pa.schema(
    [pa.field(field.column, _ARROW_TYPES[field.kind], nullable=False) for field in sort_for_table(SINK_FIELDS)]
)
# The columns that identify a row. Objects from before a field was added lack it, but all have these.
KEY_SCHEMA = pa.schema([SINK_SCHEMA.field(name) for name in ("ride_id", "kafka_partition", "kafka_offset")])
# See `jobs.sinks.parquet.export`.
REPETITIVE = tuple(field.column for field in SINK_FIELDS if field.is_repetitive)
# The layout includes the Z of a time.
_DOCUMENT, _DOCUMENT_END = make_json_layout(SINK_FIELDS, time_end='Z"')

_LAST_MILLISECOND = 253_402_300_799_999

_MESSAGE_TYPES: dict[Kind, Any] = {
    Kind.UUID: str,
    Kind.TIME: str,
    Kind.COMFORT: Literal["low", "medium", "high"],
    Kind.LATITUDE: Annotated[float, Meta(ge=-90, le=90)],
    Kind.LONGITUDE: Annotated[float, Meta(ge=-180, le=180)],
    Kind.AMOUNT: Annotated[float, Meta(ge=0)],
}


def _define_result() -> type[msgspec.Struct]:
    """Define the type of a message of `rides_result`. Unknown fields are ignored, so a later version may add some."""
    members: dict[str, Any] = {}
    for field in RESULT_FIELDS:
        place, _, name = field.path.rpartition(".")
        default = msgspec.NODEFAULT if field.default is None else field.default
        (members.setdefault(place, {}) if place else members)[name] = _MESSAGE_TYPES[field.kind], default
    return _define("PricedRide", members)


def _define(name: str, members: dict[str, Any]) -> type[msgspec.Struct]:
    fields = [
        (key, _define(key, member)) if isinstance(member, dict) else (key, *member) for key, member in members.items()
    ]
    return msgspec.defstruct(name, fields, frozen=True, gc=False, kw_only=True)


PricedRide = _define_result()
_decode = msgspec.json.Decoder(PricedRide).decode


def transform(manifest: Manifest, folder: Folder) -> tuple[str, Manifest]:
    """Flatten and stamp every staged chunk.

    Returns:
        URL and content of a manifest whose chunks hold rows of SINK_SCHEMA. Its rejects are invalid messages.
    """
    chunks: list[Chunk] = []

    def flatten_chunk(chunk: Chunk) -> tuple[Chunk, pa.RecordBatch]:
        rows, rejects = flatten(read_chunk(chunk.url), chunk.partition)
        url = folder.write_chunk(chunk.partition, chunk.first, [rows], SINK_SCHEMA)
        return msgspec.structs.replace(chunk, url=url, records=len(rows)), rejects

    def rejected() -> Iterator[pa.RecordBatch]:
        # Two chunks at a time: most of the work is in Arrow, which releases the GIL.
        for _, (flat, rejects) in prefetch(flatten_chunk, manifest.chunks, ahead=2):
            chunks.append(flat)
            yield rejects

    rejects_url = folder.write_table("rejects", rejected(), REJECT_SCHEMA)
    rejects = manifest.records - sum(chunk.records for chunk in chunks)
    transformed = msgspec.structs.replace(manifest, chunks=tuple(chunks), rejects_url=rejects_url, rejects=rejects)
    return folder.write_manifest(transformed), transformed


def flatten(messages: pa.RecordBatch, partition: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Turn messages (MESSAGE_SCHEMA) of one partition into rows of SINK_SCHEMA and of REJECT_SCHEMA.

    agent_timestamp is the Kafka timestamp of the message, so every read, for either sink, gives the same row.
    """
    values = messages.column("value").fill_null(b"")
    results, is_result, faults = _read(values)
    offsets, sent = (messages.column(name).filter(is_result) for name in ("offset", "timestamp"))
    rows = pa.record_batch(
        [
            results.column("ride_id"),
            pc.cast(results.column("ts"), _UTC),
            _make_agent_timestamps(sent),
            results.column("comfort"),
            *(results.column(field.path) for field in RESULT_FIELDS if not field.kind.is_text),
            pa.repeat(pa.scalar(partition, pa.int32()), len(results)),
            offsets,
        ],
        schema=SINK_SCHEMA,
    )
    rejects = make_reject_batch(partition, messages.filter(pc.invert(is_result)), Reason.INVALID_RESULT, faults)
    return rows, rejects


def _read(values: pa.BinaryArray) -> tuple[pa.RecordBatch, pa.BooleanArray, list[str]]:
    """Decode values; returns the results (RESULTS_SCHEMA), a mask of their values, and the faults of the others."""
    rides: list[msgspec.Struct] = []
    faults: list[str | None] = []
    for value in values.to_pylist():
        try:
            rides.append(_decode(value))
            faults.append(None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults.append(str(error))
    results = make_columns(rides, RESULTS_SCHEMA)
    is_canonical = pc.and_(
        pc.match_substring_regex(results.column("ride_id"), IS_RIDE_ID),
        pc.match_substring_regex(results.column("ts"), IS_TIMESTAMP),
    )
    decoded = np.flatnonzero([fault is None for fault in faults])
    for row in decoded[~is_canonical.to_numpy(zero_copy_only=False)].tolist():
        faults[row] = "ride_id is not a UUID in lower case, or ts is not a UTC time with six digits of a second"
    is_result = pa.array([fault is None for fault in faults], pa.bool_())
    return results.filter(is_canonical), is_result, [fault for fault in faults if fault is not None]


def _make_agent_timestamps(milliseconds: pa.Int64Array) -> pa.TimestampArray:
    """Kafka timestamps, clipped to the years 1970–9999: another producer may set any value."""
    kept = np.clip(milliseconds.to_numpy(), 0, _LAST_MILLISECOND)
    return pa.array(kept * 1000, pa.int64()).cast(_UTC)


def make_documents(rows: pa.RecordBatch) -> pa.StringArray:
    """Each row of SINK_SCHEMA as a JSON document for the index `rides`. No value needs escaping."""
    parts = [part for before, field in _DOCUMENT for part in (before, _format_column(rows.column(field.column)))]
    return pc.binary_join_element_wise(*parts, _DOCUMENT_END, "")


def _format_column(column: pa.Array) -> pa.StringArray:
    if column.type == _UTC:
        # Without a time zone, Arrow prints a time without an offset.
        return pc.replace_substring(pc.cast(column.cast(pa.timestamp("us")), pa.string()), " ", "T")
    return column if column.type == pa.string() else pc.cast(column, pa.string())
