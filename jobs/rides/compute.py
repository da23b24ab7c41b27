"""ComputeCostTravel's work: price staged messages of rides_raw and stage the outcomes."""

from __future__ import annotations

import msgspec

from jobs import resources
from jobs.files import Folder, read_chunk
from jobs.kafka.staged import OUTCOME_SCHEMA, Chunk, Manifest
from jobs.parallel import prefetch
from jobs.rides.distance import Distance
from jobs.rides.pricing import price

# 8,000 messages are 2 to 3 MB: they fit the CPU cache and amortise the cost of a slice.
_SLICE_RECORDS = 8_000


@resources.pause_cyclic_gc()
def compute(manifest: Manifest, distance: Distance, folder: Folder) -> tuple[str, Manifest]:
    """Price every staged chunk.

    Returns:
        URL and content of a manifest whose chunks hold outcomes (`jobs.kafka.staged.OUTCOME_SCHEMA`).
    """

    def price_chunk(chunk: Chunk) -> Chunk:
        messages = read_chunk(chunk.url)
        slices = (messages.slice(start, _SLICE_RECORDS) for start in range(0, len(messages), _SLICE_RECORDS))
        priced = (price(part, distance) for part in slices)
        return msgspec.structs.replace(
            chunk, url=folder.write_chunk(chunk.partition, chunk.first, priced, OUTCOME_SCHEMA)
        )

    # Two chunks at a time: half of the work is in Arrow and NumPy, which release the GIL.
    chunks = [priced for _, priced in prefetch(price_chunk, manifest.chunks, ahead=2)]
    computed = msgspec.structs.replace(manifest, chunks=tuple(chunks))
    return folder.write_manifest(computed), computed
