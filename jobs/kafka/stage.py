"""ConsumeKafka's work: stage the messages of a claim, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, Message
from numpy.typing import NDArray

from jobs import resources
from jobs.files import Folder
from jobs.kafka.claim import Claimed, Limits
from jobs.kafka.client import Config, translate_broker_errors
from jobs.kafka.offsets import GroupReader
from jobs.kafka.scan import Claim, read
from jobs.kafka.staged import MESSAGE_SCHEMA, Chunk, Manifest, make_message_batch


@resources.pause_cyclic_gc()
def stage(config: Config, reader: GroupReader, claimed: Claimed, folder: Folder) -> tuple[str, Manifest]:
    """Stage the messages of a claim.

    Args:
        folder: the folder for the chunks; each try of a task has its own.

    Returns:
        URL and content of the manifest.

    Raises:
        ServiceUnavailableError: a broker is down; nothing was committed.
    """
    topic, limits = claimed.topic, claimed.limits
    with translate_broker_errors(config, f"reading {topic}"):
        chunks = tuple(
            chunk for claim in claimed.claims for chunk in _stage_claim(reader.consumer, topic, claim, folder, limits)
        )
    manifest = Manifest(
        topic, claimed.topic_id, claimed.group, claimed.claims, chunks, limits.chunk_records, limits.chunk_bytes
    )
    return folder.write_manifest(manifest), manifest


def _stage_claim(client: Consumer, topic: str, claim: Claim, folder: Folder, limits: Limits) -> Iterator[Chunk]:

    def write(first: int, last: int, records: int, size: int, batches: list[pa.RecordBatch]) -> Chunk:
        url = folder.write_chunk(claim.partition, first, batches, MESSAGE_SCHEMA)
        oldest = min(pc.min(batch.column("timestamp")).as_py() for batch in batches)
        return Chunk(claim.partition, first, last, records, size, url, oldest)

    with closing(read(client, topic, claim)) as messages, ThreadPoolExecutor(1) as pool:
        writing: Future[Chunk] | None = None
        for chunk in cut_chunks(messages, limits.chunk_records, limits.chunk_bytes):
            if writing:
                yield writing.result()
            writing = pool.submit(write, *chunk)  # writes while the next chunk is read
        if writing:
            yield writing.result()


def cut_chunks(
    lists: Iterator[list[Message]], max_records: int, max_bytes: int
) -> Iterator[tuple[int, int, int, int, list[pa.RecordBatch]]]:
    """Cut messages into chunks. A chunk ends with the message that reaches `max_records` or `max_bytes`.

    Bytes are those of keys, values and headers. The cuts depend only on the messages, not on how they arrive.

    Yields:
        First offset, last offset, number of messages, their size in bytes, and the messages as batches of
        MESSAGE_SCHEMA.
    """
    batches: list[pa.RecordBatch] = []
    records = size = 0
    for messages in lists:
        batch = make_message_batch(messages)
        begin = 0
        sizes = np.cumsum(_measure_messages(batch))
        while begin < len(batch):
            done = sizes[begin - 1] if begin else 0
            by_bytes = int(np.searchsorted(sizes, done + max_bytes - size)) + 1
            end = min(by_bytes, begin + max_records - records, len(batch))
            batches.append(batch.slice(begin, end - begin))
            records += end - begin
            size += int(sizes[end - 1] - done)
            begin = end
            if records >= max_records or size >= max_bytes:
                yield _read_offset(batches[0], 0), _read_offset(batches[-1], -1), records, size, batches
                batches, records, size = [], 0, 0
    if batches:
        yield _read_offset(batches[0], 0), _read_offset(batches[-1], -1), records, size, batches


def _measure_messages(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """The size of each message in bytes: key, value and headers."""
    sizes: NDArray[np.int64] = _measure_values(batch.column("key")) + _measure_values(batch.column("value"))
    headers = batch.column("headers")
    if headers.null_count < len(headers):
        rows = pc.list_parent_indices(headers).to_numpy()
        pairs = pc.list_flatten(headers)
        np.add.at(sizes, rows, _measure_values(pairs.field("key")) + _measure_values(pairs.field("value")))
    return sizes


def _measure_values(column: pa.Array) -> NDArray[np.int64]:
    return pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _read_offset(batch: pa.RecordBatch, row: int) -> int:
    offset: int = batch.column("offset")[row].as_py()
    return offset
