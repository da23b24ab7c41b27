"""PutElasticSearch's work: index staged rows, one document per ride."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from elasticsearch import Elasticsearch

from jobs.files import Folder, read_chunk
from jobs.kafka.staged import REJECT_SCHEMA, Chunk, Manifest, make_reject_batch
from jobs.parallel import prefetch
from jobs.rides.contract import Reason
from jobs.rides.transform import make_documents
from jobs.rides.vertical import TEMPLATE
from jobs.sinks.elasticsearch import create_index, index_batches, make_bulk_lines, verify_index


def put_elasticsearch(
    client: Elasticsearch, index: str, staged: Manifest, transformed: Manifest, folder: Folder
) -> tuple[str, Manifest]:
    """Index transformed rows.

    Args:
        staged: the run's unchanged messages, for those that Elasticsearch rejects.
        transformed: the same chunks as rows of SINK_SCHEMA.

    Returns:
        URL and content of a manifest whose rejects are the messages that Elasticsearch rejects for good.
    """
    create_index(client, index, TEMPLATE)
    verify_index(client, index, TEMPLATE)
    originals = {(chunk.partition, chunk.first): chunk for chunk in staged.chunks}
    refused = 0

    def load(chunk: Chunk) -> tuple[pa.Int64Array, pa.StringArray]:
        rows = read_chunk(chunk.url)
        offsets = rows.column("kafka_offset")
        return offsets, make_bulk_lines(rows.column("ride_id"), offsets, make_documents(rows))

    def batches() -> Iterator[tuple[tuple[Chunk, pa.Int64Array], pa.StringArray]]:
        for chunk, (offsets, lines) in prefetch(load, transformed.chunks):
            yield (chunk, offsets), lines

    def rejected() -> Iterator[pa.RecordBatch]:
        nonlocal refused
        for (chunk, all_offsets), refusals in index_batches(client, index, batches()):
            if not refusals:
                continue
            refused += len(refusals)
            offsets = all_offsets.take(pa.array(list(refusals)))
            messages = read_chunk(originals[chunk.partition, chunk.first].url)
            faulty = messages.filter(pc.is_in(messages.column("offset"), offsets))
            texts = dict(zip(offsets.to_pylist(), refusals.values(), strict=True))
            yield make_reject_batch(
                chunk.partition,
                faulty,
                Reason.REFUSED_BY_ELASTICSEARCH,
                [texts[offset] for offset in faulty.column("offset").to_pylist()],
            )

    rejects_url = folder.write_table("rejects", rejected(), REJECT_SCHEMA)
    done = msgspec.structs.replace(transformed, rejects_url=rejects_url, rejects=refused)
    return folder.write_manifest(done), done
