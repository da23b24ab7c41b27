"""ComputeCostTravel's work: staged messages of rides_raw in, staged outcomes out."""

from __future__ import annotations

import msgspec

from jobs import resources
from jobs.files import Folder, read_chunk
from jobs.kafka.staged import OUTCOME_SCHEMA, Chunk, Manifest
from jobs.parallel import prefetched
from jobs.rides.distance import Distance
from jobs.rides.pricing import price

# Fewer at a time stay in the processor's cache, more at a time spare the regular expressions their start.
_SLICE_RECORDS = 25_000


@resources.cyclic_gc_paused()
def compute(manifest: Manifest, distance: Distance, folder: Folder) -> tuple[str, Manifest]:
    """Price every staged chunk.

    Returns:
        URL and content of a manifest whose chunks hold outcomes (`jobs.kafka.staged.OUTCOME_SCHEMA`).
    """

    def price_chunk(chunk: Chunk) -> Chunk:
        values = read_chunk(chunk.url).column("value")
        slices = (values.slice(start, _SLICE_RECORDS) for start in range(0, len(values), _SLICE_RECORDS))
        priced = (price(part, distance) for part in slices)
        url = folder.write_chunk(chunk.partition, chunk.first, priced, OUTCOME_SCHEMA)
        return msgspec.structs.replace(chunk, url=url, messages_url=chunk.url)

    # Two at a time: most of the work is Arrow's, which needs no interpreter lock.
    chunks = [priced for _, priced in prefetched(price_chunk, manifest.chunks, ahead=2)]
    computed = msgspec.structs.replace(manifest, chunks=tuple(chunks))
    return folder.write_manifest(computed), computed
