"""TransformJSON's work: values of rides_result in, flat and stamped rows for the sinks out.

`SINK_SCHEMA` is the one definition of what both sinks hold: Parquet as it is, Elasticsearch with each pair of
coordinates joined to a geo_point (`documents`).
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
from jobs.kafka.staged import REJECT_SCHEMA, Chunk, Manifest, reject_batch
from jobs.parallel import prefetched
from jobs.rides.columnar import IS_RIDE_ID, IS_TIMESTAMP, RESULTS_SCHEMA, columns
from jobs.rides.contract import Reason

_UTC = pa.timestamp("us", "UTC")
_NUMBERS = {
    "origin_lat": "origin.lat",
    "origin_lon": "origin.lon",
    "destination_lat": "destination.lat",
    "destination_lon": "destination.lon",
    "duration_min": "duration_min",
    "price_base": "price_base",
    "price_per_km": "price_per_km",
    "price_per_min": "price_per_min",
    "distance_km": "distance_km",
    "price_total": "price_total",
}
_TYPES = (
    [("ride_id", pa.string()), ("ts", _UTC), ("agent_timestamp", _UTC), ("comfort", pa.string())]
    + [(name, pa.float64()) for name in _NUMBERS]
    + [("kafka_partition", pa.int32()), ("kafka_offset", pa.int64())]
)
SINK_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _TYPES])

_LAST_MILLISECOND = 253_402_300_799_999

Amount = Annotated[float, Meta(ge=0)]


class Place(msgspec.Struct, frozen=True, gc=False):
    """A point of a result, in degrees."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]


class PricedRide(msgspec.Struct, frozen=True, gc=False):
    """A message of `rides_result`; unknown fields are ignored, so that a later version may add some."""

    ride_id: str
    ts: str
    origin: Place
    destination: Place
    comfort: Literal["low", "medium", "high"]
    duration_min: Amount
    price_base: Amount
    price_per_km: Amount
    price_per_min: Amount
    distance_km: Amount
    price_total: Amount


_decode = msgspec.json.Decoder(PricedRide).decode


def transform(manifest: Manifest, folder: Folder) -> tuple[str, Manifest]:
    """Flatten and stamp every staged chunk.

    Returns:
        URL and content of a manifest whose chunks hold rows of SINK_SCHEMA; its rejects are no rides_result.
    """
    chunks: list[Chunk] = []

    def flatten_chunk(chunk: Chunk) -> tuple[Chunk, pa.RecordBatch]:
        rows, rejects = flatten(read_chunk(chunk.url), chunk.partition)
        url = folder.write_chunk(chunk.partition, chunk.first, [rows], SINK_SCHEMA)
        return msgspec.structs.replace(chunk, url=url, records=len(rows)), rejects

    def rejected() -> Iterator[pa.RecordBatch]:
        # Two at a time: most of the work is Arrow's, which needs no interpreter lock.
        for _, (flat, rejects) in prefetched(flatten_chunk, manifest.chunks, ahead=2):
            chunks.append(flat)
            yield rejects

    rejects_url = folder.write_table("rejects", rejected(), REJECT_SCHEMA)
    rejects = manifest.records - sum(chunk.records for chunk in chunks)
    transformed = msgspec.structs.replace(manifest, chunks=tuple(chunks), rejects_url=rejects_url, rejects=rejects)
    return folder.write_manifest(transformed), transformed


def flatten(messages: pa.RecordBatch, partition: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Turn messages (MESSAGE_SCHEMA) of one partition into rows of SINK_SCHEMA and of REJECT_SCHEMA.

    agent_timestamp is the time at which Kafka has the result from: whoever reads the message again, for either sink,
    stamps the very same row.
    """
    values = messages.column("value").fill_null(b"")
    results, is_result, faults = _read(values)
    offsets, sent = (messages.column(name).filter(is_result) for name in ("offset", "timestamp"))
    rows = pa.record_batch(
        [
            results.column("ride_id"),
            pc.cast(results.column("ts"), _UTC),
            _agent_timestamps(sent),
            results.column("comfort"),
            *(results.column(name) for name in _NUMBERS.values()),
            pa.repeat(pa.scalar(partition, pa.int32()), len(results)),
            offsets,
        ],
        schema=SINK_SCHEMA,
    )
    rejects = reject_batch(partition, messages.filter(pc.invert(is_result)), Reason.INVALID_RESULT, faults)
    return rows, rejects


_Results = tuple[pa.RecordBatch, pa.BooleanArray, list[str]]


def _read(values: pa.BinaryArray) -> tuple[pa.RecordBatch, pa.BooleanArray, list[str]]:
    """Decode values: the results (a batch of RESULTS_SCHEMA), which values they are, and the faults of the others."""
    rides: list[PricedRide] = []
    faults: list[str | None] = []
    for value in values.to_pylist():
        try:
            rides.append(_decode(value))
            faults.append(None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults.append(str(error))
    results = columns(rides, RESULTS_SCHEMA)
    is_canonical = pc.and_(
        pc.match_substring_regex(results.column("ride_id"), IS_RIDE_ID),
        pc.match_substring_regex(results.column("ts"), IS_TIMESTAMP),
    )
    decoded = np.flatnonzero([fault is None for fault in faults])
    for row in decoded[~is_canonical.to_numpy(zero_copy_only=False)].tolist():
        faults[row] = "ride_id is not a UUID in lower case, or ts not a time in UTC with six digits of a second"
    is_result = pa.array([fault is None for fault in faults], pa.bool_())
    return results.filter(is_canonical), is_result, [fault for fault in faults if fault is not None]


def _agent_timestamps(milliseconds: pa.Int64Array) -> pa.TimestampArray:
    """Times of Kafka, held within the years 1970–9999: a foreign producer may have set any."""
    kept = np.clip(milliseconds.to_numpy(), 0, _LAST_MILLISECOND)
    return pa.array(kept * 1000, pa.int64()).cast(_UTC)


def documents(rows: pa.RecordBatch) -> pa.StringArray:
    """Each row of SINK_SCHEMA as a JSON document for the index `rides`. Nothing in a row needs escaping."""
    parts: list[Any] = []
    for name, before in _DOCUMENT:
        parts += [before, _text(rows.column(name))]
    return pc.binary_join_element_wise(*parts, "}", "")


_DOCUMENT = (
    ("ride_id", '{"ride_id":"'),
    ("ts", '","ts":"'),
    ("agent_timestamp", 'Z","agent_timestamp":"'),
    ("origin_lat", 'Z","origin":{"lat":'),
    ("origin_lon", ',"lon":'),
    ("destination_lat", '},"destination":{"lat":'),
    ("destination_lon", ',"lon":'),
    ("comfort", '},"comfort":"'),
    ("duration_min", '","duration_min":'),
    ("price_base", ',"price_base":'),
    ("price_per_km", ',"price_per_km":'),
    ("price_per_min", ',"price_per_min":'),
    ("distance_km", ',"distance_km":'),
    ("price_total", ',"price_total":'),
    ("kafka_partition", ',"kafka_partition":'),
    ("kafka_offset", ',"kafka_offset":'),
)


def _text(column: pa.Array) -> pa.StringArray:
    if column.type == _UTC:
        # Without its zone a time is printed as is; the zone's Z is part of the template.
        return pc.replace_substring(pc.cast(column.cast(pa.timestamp("us")), pa.string()), " ", "T")
    return column if column.type == pa.string() else pc.cast(column, pa.string())
