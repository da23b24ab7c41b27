"""ConsumeKafka's work: stage the messages of a claim, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer
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
    manifest = _make_manifest(claimed, chunks)
    return folder.write_manifest(manifest), manifest


def write_claim(claimed: Claimed, folder: Folder) -> tuple[str, Manifest]:
    """Write the manifest of a claim without staging its messages: the next task reads them from Kafka.

    Returns:
        URL and content of the manifest.
    """
    manifest = msgspec.structs.replace(_make_manifest(claimed, ()), is_staged=False)
    return folder.write_manifest(manifest), manifest


def _make_manifest(claimed: Claimed, chunks: tuple[Chunk, ...]) -> Manifest:
    topic, limits = claimed.topic, claimed.limits
    return Manifest(
        topic, claimed.topic_id, claimed.group, claimed.claims, chunks, limits.chunk_records, limits.chunk_bytes
    )


def _stage_claim(client: Consumer, topic: str, claim: Claim, folder: Folder, limits: Limits) -> Iterator[Chunk]:

    def write(cut: Cut) -> Chunk:
        url = folder.write_chunk(claim.partition, cut.first, cut.batches, MESSAGE_SCHEMA)
        return cut.make_chunk(claim.partition, url)

    with closing(read(client, topic, claim)) as lists, ThreadPoolExecutor(1) as pool:
        writing: Future[Chunk] | None = None
        for cut in cut_chunks(map(make_message_batch, lists), limits.chunk_records, limits.chunk_bytes):
            if writing:
                yield writing.result()
            writing = pool.submit(write, cut)  # writes while the next chunk is read
        if writing:
            yield writing.result()


class Cut(NamedTuple):
    """The messages of one chunk, as batches of MESSAGE_SCHEMA. `size` is in bytes."""

    first: int
    last: int
    records: int
    size: int
    batches: list[pa.RecordBatch]

    def make_chunk(self, partition: int, url: str) -> Chunk:
        """The chunk in a manifest, once its file is written."""
        oldest = min(pc.min(batch.column("timestamp")).as_py() for batch in self.batches)
        return Chunk(partition, self.first, self.last, self.records, self.size, url, oldest)


def cut_chunks(arriving: Iterable[pa.RecordBatch], max_records: int, max_bytes: int) -> Iterator[Cut]:
    """Cut messages into chunks. A chunk ends with the message that reaches `max_records` or `max_bytes`.

    Bytes are those of keys, values and headers. The cuts depend only on the messages, not on how they arrive.

    Args:
        arriving: batches of MESSAGE_SCHEMA with the messages of one partition.
    """
    batches: list[pa.RecordBatch] = []
    records = size = 0
    for batch in arriving:
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
                yield Cut(_read_offset(batches[0], 0), _read_offset(batches[-1], -1), records, size, batches)
                batches, records, size = [], 0, 0
    if batches:
        yield Cut(_read_offset(batches[0], 0), _read_offset(batches[-1], -1), records, size, batches)


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
