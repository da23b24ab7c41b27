"""ConsumeKafka's work: claim what a group has still to do, and stage it chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, Message
from numpy.typing import NDArray

from jobs import resources
from jobs.errors import OffsetsError
from jobs.files import Folder
from jobs.kafka.claim import Claim, check_end, limited, read, starting_offsets, wait_for_message
from jobs.kafka.client import Config, broker_errors
from jobs.kafka.offsets import Bounds, Committed, GroupReader, bounds, group_reader
from jobs.kafka.ownership import check_ownership
from jobs.kafka.staged import MESSAGE_SCHEMA, Chunk, Manifest, message_batch
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import group_writer

log = logging.getLogger(__name__)


class Plan(msgspec.Struct, frozen=True):
    """How one partition of a claim is cut: kept in the metadata of its committed offset until the claim is done.

    A later run that finds it cuts the same chunks, so that a sink which names its objects by chunk writes the same
    objects again.
    """

    end: int
    chunk_records: int
    chunk_bytes: int


class Staged(msgspec.Struct, frozen=True):
    """What a run has to do: the manifest (None: nothing), and by how many offsets the group was behind.

    `lag` counts to the high watermarks, so what open transactions hold back is in it.
    """

    lag: int
    url: str = ""
    manifest: Manifest | None = None


class Limits(msgspec.Struct, frozen=True):
    """A claim has at most `run_records` messages, a chunk ends with the message that reaches either chunk limit."""

    run_records: int
    chunk_records: int
    chunk_bytes: int


@resources.cyclic_gc_paused()
def stage(
    config: Config,
    topic: str,
    group: str,
    folder: Folder,
    limits: Limits,
    *,
    topic_ids: TopicIds,
    wait_s: float = 0,
    settle_s: float = 0,
    is_planned: bool = False,
    has_output: Callable[[Consumer], bool],
) -> Staged:
    """Claim and stage what the group has still to do on `topic`.

    Args:
        folder: where the chunks go; one for each try of a task.
        topic_ids: the topics that groups have worked with.
        wait_s: seconds to wait for a first message where there is none.
        settle_s: seconds to wait for the end of the transactions that are open now, so that the claim covers them.
        is_planned: whether the cut has to be the same at every later try (see `Plan`).
        has_output: tells whether the group's output exists; asked only when it has no committed offsets.

    Raises:
        ConfigurationError, OffsetsError, ServiceUnavailableError: nothing was committed.
    """
    with broker_errors(config, f"reading {topic}"), group_reader(config, topic, group) as reader:
        topic_id = check_ownership(config, reader, topic_ids)
        claims, plan, lag = _claim(config, reader, limits, wait_s=wait_s, settle_s=settle_s, has_output=has_output)
        if all(claim.start == claim.end for claim in claims):
            return Staged(lag)
        if is_planned and plan is None:
            claims, plan = _plan(config, topic, group, claims, limits)
        if plan is not None:
            limits = Limits(limits.run_records, plan.chunk_records, plan.chunk_bytes)
        chunks = tuple(chunk for it in claims for chunk in _stage_claim(reader.consumer, topic, it, folder, limits))
    manifest = Manifest(topic, topic_id, group, tuple(claims), chunks, limits.chunk_records, limits.chunk_bytes)
    return Staged(lag, folder.write_manifest(manifest), manifest)


def _claim(
    config: Config,
    reader: GroupReader,
    limits: Limits,
    *,
    wait_s: float,
    settle_s: float,
    has_output: Callable[[Consumer], bool],
) -> tuple[list[Claim], Plan | None, int]:
    topic, group, client = reader.topic, reader.group, reader.consumer
    at = reader.committed()
    within = bounds(config, client, topic, list(at), settle_s=settle_s)
    is_new = all(found.offset is None for found in at.values())
    starts = starting_offsets(topic, group, at, within, has_output=is_new and has_output(client))
    if found := _planned(at):
        claims, plan = found
        for claim in claims:
            check_end(topic, group, claim.partition, claim.end, within[claim.partition])
        log.info("Taking up the plan that an earlier run of %s has made for %s", group, topic)
        return claims, plan, _lag(starts, within)
    claims = limited(starts, within, limits.run_records)
    if all(claim.start == claim.end for claim in claims) and wait_for_message(client, topic, starts, wait_s):
        within = bounds(config, client, topic, list(at))
        claims = limited(starts, within, limits.run_records)
    return claims, None, _lag(starts, within)


def _lag(starts: dict[int, int], within: dict[int, Bounds]) -> int:
    return sum(within[partition].high - start for partition, start in starts.items())


def _planned(at: dict[int, Committed]) -> tuple[list[Claim], Plan] | None:
    """The claim that an earlier run planned and did not finish."""
    plans = {partition: plan for partition, found in at.items() if (plan := found.plan(Plan)) is not None}
    if not plans:
        return None
    claims = [Claim(partition, at[partition].offset or 0, plan.end) for partition, plan in plans.items()]
    return claims, next(iter(plans.values()))


def _plan(config: Config, topic: str, group: str, claims: list[Claim], limits: Limits) -> tuple[list[Claim], Plan]:
    """Commit the unchanged offsets with the plan, unless another worker has planned meanwhile: then its plan counts."""
    plans = {claim.partition: Plan(claim.end, limits.chunk_records, limits.chunk_bytes) for claim in claims}
    with group_writer(config, group, topic, limits.chunk_records) as writer:
        at = writer.committed()
        if found := _planned(at):
            return found
        if any(at[claim.partition].offset not in (None, claim.start) for claim in claims):
            raise OffsetsError(
                f"Another worker of group {group} has committed offsets on {topic} since this one made its claim. "
                "Nothing was written; the next try claims anew."
            )
        texts = {partition: msgspec.json.encode(plan) for partition, plan in plans.items()}
        with writer.transaction({claim.partition: claim.start for claim in claims}, texts):
            pass
    return claims, next(iter(plans.values()))


def _stage_claim(client: Consumer, topic: str, claim: Claim, folder: Folder, limits: Limits) -> Iterator[Chunk]:

    def write(first: int, last: int, records: int, size: int, batches: list[pa.RecordBatch]) -> Chunk:
        url = folder.write_chunk(claim.partition, first, batches, MESSAGE_SCHEMA)
        return Chunk(claim.partition, first, last, records, size, url)

    with closing(read(client, topic, claim)) as messages, ThreadPoolExecutor(1) as pool:
        writing: Future[Chunk] | None = None
        for chunk in cut(messages, limits.chunk_records, limits.chunk_bytes):
            if writing:
                yield writing.result()
            writing = pool.submit(write, *chunk)  # while the next one is read
        if writing:
            yield writing.result()


def cut(
    lists: Iterator[list[Message]], max_records: int, max_bytes: int
) -> Iterator[tuple[int, int, int, int, list[pa.RecordBatch]]]:
    """Cut messages into chunks, each ending with the message that reaches `max_records` or `max_bytes`.

    Bytes are those of keys, values and headers. The cuts depend on the messages alone, not on how they arrive.

    Yields:
        First offset, last offset, number of messages, their bytes, and themselves as batches of MESSAGE_SCHEMA.
    """
    batches: list[pa.RecordBatch] = []
    records = size = 0
    for messages in lists:
        batch = message_batch(messages)
        begin = 0
        sizes = np.cumsum(_sizes(batch))
        while begin < len(batch):
            done = sizes[begin - 1] if begin else 0
            by_bytes = int(np.searchsorted(sizes, done + max_bytes - size)) + 1
            end = min(by_bytes, begin + max_records - records, len(batch))
            batches.append(batch.slice(begin, end - begin))
            records += end - begin
            size += int(sizes[end - 1] - done)
            begin = end
            if records >= max_records or size >= max_bytes:
                yield _offset(batches[0], 0), _offset(batches[-1], -1), records, size, batches
                batches, records, size = [], 0, 0
    if batches:
        yield _offset(batches[0], 0), _offset(batches[-1], -1), records, size, batches


def _sizes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Bytes of each message: its key, value and headers."""
    sizes: NDArray[np.int64] = _lengths(batch.column("key")) + _lengths(batch.column("value"))
    headers = batch.column("headers")
    if headers.null_count < len(headers):
        rows = pc.list_parent_indices(headers).to_numpy()
        pairs = pc.list_flatten(headers)
        np.add.at(sizes, rows, _lengths(pairs.field("key")) + _lengths(pairs.field("value")))
    return sizes


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    return pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _offset(batch: pa.RecordBatch, row: int) -> int:
    offset: int = batch.column("offset")[row].as_py()
    return offset
