"""TransformJSON's work: values of rides_result in, flat and stamped rows for the sinks out.

`SINK_SCHEMA` is the one definition of what both sinks hold: Parquet as it is, Elasticsearch with each pair of
coordinates joined to a geo_point (`documents`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from jobs.rides.columnar import CANONICAL_RIDE_ID
from jobs.rides.contract import Reason
from jobs.rides.pricing import normalised_timestamps
from jobs.staging import REJECT_SCHEMA, Chunk, Folder, Manifest, prefetched, read_chunk, reject_batch

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
_numbers_of = attrgetter(*_NUMBERS.values())


def transform(manifest: Manifest, folder: Folder) -> tuple[str, Manifest]:
    """Flatten and stamp every staged chunk.

    Returns:
        URL and content of a manifest whose chunks hold rows of SINK_SCHEMA; its rejects are no rides_result.
    """
    chunks: list[Chunk] = []

    def rejected() -> Iterator[pa.RecordBatch]:
        for chunk, messages in prefetched(lambda chunk: read_chunk(chunk.url), manifest.chunks):
            rows, rejects = flatten(messages, chunk.partition)
            url = folder.write_chunk(chunk.partition, chunk.first, [rows], SINK_SCHEMA)
            chunks.append(msgspec.structs.replace(chunk, url=url, records=len(rows)))
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
    rides: list[PricedRide] = []
    faults: list[str | None] = []
    for value in messages.column("value").fill_null(b"").to_pylist():
        try:
            rides.append(_decode(value))
            faults.append(None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults.append(str(error))
    ride_id = pa.array([ride.ride_id for ride in rides], pa.string())
    comfort = pa.array([ride.comfort for ride in rides], pa.string())
    numbers = np.fromiter(chain.from_iterable(map(_numbers_of, rides)), float, count=len(_NUMBERS) * len(rides))
    ts = _timestamps(pa.array([ride.ts for ride in rides], pa.string()))
    is_good = pc.and_(pc.match_substring_regex(ride_id, f"^{CANONICAL_RIDE_ID}$"), ts.is_valid())
    read = np.flatnonzero([fault is None for fault in faults])
    for row in read[~is_good.to_numpy(zero_copy_only=False)].tolist():
        faults[row] = "ride_id is not a UUID in lower case, or ts not a time in UTC with six digits of a second"
    is_fault = pa.array([fault is not None for fault in faults], pa.bool_())

    rows = pa.record_batch(
        [
            ride_id,
            ts,
            _agent_timestamps(messages.column("timestamp").take(pa.array(read))),
            comfort,
            *map(pa.array, np.ascontiguousarray(numbers.reshape(-1, len(_NUMBERS)).T)),
            pa.repeat(pa.scalar(partition, pa.int32()), len(rides)),
            messages.column("offset").take(pa.array(read)),
        ],
        schema=SINK_SCHEMA,
    ).filter(is_good)
    texts = [fault for fault in faults if fault is not None]
    rejects = reject_batch(partition, messages.filter(is_fault), Reason.INVALID_RESULT, texts)
    return rows, rejects


def _timestamps(texts: pa.StringArray) -> pa.TimestampArray:
    """Times of results; null where a text is not one in its canonical form."""
    is_canonical = pc.equal(normalised_timestamps(texts), texts)
    return pc.cast(pc.if_else(is_canonical, texts, pa.scalar(None, pa.string())), _UTC)


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
