"""PublishKafka's work: send results, dead letters and the group's offsets, in transactions of whole chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from jobs import resources
from jobs.errors import ConfigurationError
from jobs.files import read_batches
from jobs.kafka.client import Config
from jobs.kafka.dead_letter import MESSAGE, OFFSET, REASON, STACKTRACE, Headers, Origin
from jobs.kafka.staged import Chunk, Manifest
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.parallel import prefetch
from jobs.settings import check_distinct

# 2,000 rows as Python objects stay in the CPU cache, and the next 2,000 reuse their memory.
PIECE_RECORDS = 2_000
_MAX_MESSAGE_CHARS = 1_000
_MAX_STACKTRACE_CHARS = 8_000


class Published(msgspec.Struct):
    """The number of published results, and of rejects by reason."""

    results: int = 0
    rejects: Counter[str] = msgspec.field(default_factory=Counter)

    def count(self, reasons: pa.ChunkedArray) -> None:
        """Add outcomes by their reasons, which are null for results."""
        self.results += reasons.null_count
        self.rejects.update(reasons.drop_null().to_pylist())


class Outlet(msgspec.Struct, frozen=True):
    """The topics for outcomes, and the names in the headers of a dead letter: the DAG, the task and its stage."""

    result_topic: str
    dlq_topic: str
    dag_id: str
    task_id: str
    stage: str


@resources.pause_cyclic_gc()
def publish(config: Config, manifest: Manifest, outlet: Outlet) -> Published:
    """Publish the staged outcomes (OUTCOME_SCHEMA) that the group's committed offsets do not cover.

    Raises:
        ConfigurationError: one of the topics does not exist, or the messages are not staged, so that nothing has
            processed them.
        OffsetsError: the group was set back to before the claim, another client committed with its id, or the topic was
            recreated.
        ServiceUnavailableError: a broker is down, or a newer worker has taken over. Committed transactions stay, the
            current one is aborted, and the next try continues from there.
    """
    check_distinct(manifest.topic, outlet.result_topic, outlet.dlq_topic)
    if not manifest.is_staged and not manifest.is_empty:
        # Without chunks, the claim's ends would be committed and its messages lost.
        raise ConfigurationError(
            f"{manifest.topic}: this manifest of group {manifest.group} has a claim, but no outcomes: it was not "
            "processed. Nothing was committed. Clear the run from ConsumeKafka on."
        )
    published = Published()
    with open_group_writer(config, manifest.group, manifest.topic, manifest.chunk_records) as writer:
        writer.check_topics(outlet.result_topic, outlet.dlq_topic)
        manifest.check_topic(writer.topic_id)
        committed = writer.read_offsets()
        if manifest.is_passed_by(committed):
            return published
        ends = manifest.list_ends_after(committed)
        chunks = [chunk for chunk in manifest.chunks if (committed[chunk.partition] or 0) < chunk.next]
        loaded = prefetch(lambda chunk: _read_uncovered(chunk, committed[chunk.partition]), chunks)
        for group in group_chunks(chunks, manifest.chunk_records, manifest.chunk_bytes):
            offsets = {chunk.partition: chunk.next for chunk in group}
            if group[-1] is chunks[-1]:
                offsets |= ends
            # Load before the transaction begins: slow storage would use up its timeout and hold readers back.
            ready = list(islice(loaded, len(group)))
            with writer.transaction(offsets):
                for chunk, uncovered in ready:
                    origin = Origin(manifest.topic, chunk.partition, outlet.dag_id, outlet.task_id, outlet.stage)
                    send_outcomes(writer, uncovered, outlet, origin)
                    published.count(uncovered["reason"])
        if not chunks:
            # The claim has only transaction markers or aborted messages: send nothing, but commit its ends.
            with writer.transaction(ends):
                pass
    return published


def group_chunks(chunks: list[Chunk], max_records: int, max_bytes: int) -> Iterator[list[Chunk]]:
    """Group the chunks that share a transaction, up to the limits. A chunk above a limit is alone."""
    group: list[Chunk] = []
    records = size = 0
    for chunk in chunks:
        records += chunk.records
        size += chunk.size
        if group and (records > max_records or size > max_bytes):
            yield group
            group, records, size = [], chunk.records, chunk.size
        group.append(chunk)
    if group:
        yield group


def _read_uncovered(chunk: Chunk, committed: int | None) -> pa.Table:
    """Read the outcomes of a chunk that start at the committed offset."""
    outcomes = pa.Table.from_batches(read_batches(chunk.url))
    if committed is not None and committed > chunk.first:
        outcomes = outcomes.filter(pc.greater_equal(outcomes["offset"], committed))
    if pc.any(pc.and_(outcomes["value"].is_null(), outcomes["reason"].is_null())).as_py():
        raise ValueError(f"{chunk.url}: an outcome has neither a value nor a reason")
    return outcomes


def send_outcomes(writer: GroupWriter, outcomes: pa.Table, outlet: Outlet, origin: Origin) -> None:
    """Send results and dead letters (rows of OUTCOME_SCHEMA from the partition of `origin`)."""
    for piece in outcomes.to_batches(PIECE_RECORDS):
        writer.send_all(outlet.result_topic, _list_results(piece))
        rejects = piece.filter(piece["reason"].is_valid())
        send_dead_letters(writer, outlet.dlq_topic, rejects, repeat(origin, len(rejects)))
        writer.free_delivered()


def _list_results(outcomes: pa.RecordBatch) -> list[dict[str, Any]]:
    """The results among outcomes, for `GroupWriter.send_all`."""
    results = outcomes.select(["key", "value"]).filter(outcomes["reason"].is_null())
    keys, values = (column.to_pylist() for column in results.columns)
    return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]


def send_dead_letters(writer: GroupWriter, dlq_topic: str, rejects: pa.RecordBatch, origins: Iterable[Origin]) -> None:
    """Send unchanged messages with headers that say where they come from and why they failed.

    Args:
        rejects: rows with the columns of OUTCOME_SCHEMA.
        origins: one for each row.
    """
    columns = (rejects[name].to_pylist() for name in ("key", "value", "headers"))
    for origin, key, value, headers, error in zip(origins, *columns, make_error_headers(rejects), strict=True):
        own_headers = [(header["key"], header["value"]) for header in headers] if headers else []
        writer.send(dlq_topic, key, value, own_headers + origin.headers + error)


def make_error_headers(rejects: pa.RecordBatch) -> list[Headers]:
    """The headers with the error and the offset of each message, as UTF-8 strings.

    Args:
        rejects: rows with the columns offset, reason, message and stacktrace of OUTCOME_SCHEMA; only the last may be
            null.
    """
    texts = (
        rejects["offset"].cast(pa.string()),
        rejects["reason"],
        pc.utf8_slice_codeunits(rejects["message"], 0, _MAX_MESSAGE_CHARS),
        pc.utf8_slice_codeunits(rejects["stacktrace"], -_MAX_STACKTRACE_CHARS, None),
    )
    errors = zip(*(column.cast(pa.binary()).to_pylist() for column in texts), strict=True)
    all_headers: list[Headers] = []
    for offset, reason, message, stacktrace in errors:
        headers: Headers = [(OFFSET, offset), (REASON, reason), (MESSAGE, message)]
        if stacktrace is not None:
            headers.append((STACKTRACE, stacktrace))
        all_headers.append(headers)
    return all_headers
