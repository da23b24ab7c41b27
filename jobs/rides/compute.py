"""ComputeCostTravel's work: staged messages of rides_raw in, staged outcomes out."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from jobs import cyclic_gc
from jobs.kafka.publish import OUTCOME_SCHEMA
from jobs.rides.distance import Distance
from jobs.rides.pricing import price
from jobs.staging import Chunk, Folder, Manifest, prefetched, read_chunk

# Fewer at a time stay in the processor's cache, more at a time spare the regular expressions their start.
_SLICE_RECORDS = 25_000


@cyclic_gc.paused()
def compute(manifest: Manifest, distance: Distance, folder: Folder) -> tuple[str, Manifest]:
    """Price every staged chunk.

    Returns:
        URL and content of a manifest whose chunks hold outcomes (`jobs.kafka.publish.OUTCOME_SCHEMA`).
    """

    def price_chunk(chunk: Chunk) -> Chunk:
        messages = read_chunk(chunk.url)
        slices = (messages.slice(start, _SLICE_RECORDS) for start in range(0, len(messages), _SLICE_RECORDS))
        priced = (outcomes(part, distance) for part in slices)
        url = folder.write_chunk(chunk.partition, chunk.first, priced, OUTCOME_SCHEMA)
        return msgspec.structs.replace(chunk, url=url)

    # Two at a time: most of the work is Arrow's, which needs no interpreter lock.
    chunks = [priced for _, priced in prefetched(price_chunk, manifest.chunks, ahead=2)]
    computed = msgspec.structs.replace(manifest, chunks=tuple(chunks))
    return folder.write_manifest(computed), computed


def outcomes(messages: pa.RecordBatch, distance: Distance) -> pa.RecordBatch:
    """What becomes of messages (MESSAGE_SCHEMA): a row of OUTCOME_SCHEMA for each, in the same order."""
    priced = price(messages.column("value"), distance)
    is_good = pc.is_null(priced.column("reason"))
    headers = messages.column("headers")
    if headers.null_count < len(headers):
        headers = pc.if_else(is_good, pa.scalar(None, headers.type), headers)
    return pa.record_batch(
        [
            messages.column("offset"),
            pc.if_else(is_good, priced.column("key"), messages.column("key")),
            priced.column("value"),
            headers,
            *(priced.column(name) for name in ("reason", "message", "stacktrace")),
        ],
        schema=OUTCOME_SCHEMA,
    )
