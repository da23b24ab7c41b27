"""PublishKafka's work: results, dead letters and the group's offsets, one transaction per chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow.compute as pc

from jobs import cyclic_gc
from jobs.kafka.client import Config
from jobs.kafka.dead_letter import Origin, error_headers
from jobs.kafka.transaction import GroupWriter, group_writer
from jobs.staging import REJECT_SCHEMA, Chunk, Manifest, read_batches

# What became of a chunk's messages: a result with its key, or, where there is a reason, the message as it was.
OUTCOME_SCHEMA = REJECT_SCHEMA.remove(REJECT_SCHEMA.get_field_index("partition"))

# So few objects stay in the processor's cache, and the next ones get their memory.
_PIECE_RECORDS = 2_000


class Published(msgspec.Struct):
    """How many messages became visible, for metrics and logs."""

    results: int = 0
    rejects: Counter[str] = msgspec.field(default_factory=Counter)


class Outlet(msgspec.Struct, frozen=True):
    """Where outcomes go, and the names that a dead letter bears of the task that wrote it."""

    result_topic: str
    dlq_topic: str
    dag_id: str
    task_id: str
    stage: str


@cyclic_gc.paused()
def publish(config: Config, manifest: Manifest, outlet: Outlet) -> Published:
    """Publish staged outcomes (OUTCOME_SCHEMA) that the group's committed offsets do not cover.

    Raises:
        ConfigurationError: one of the topics does not exist.
        OffsetsError: the group was set back to before the claim.
        ServiceUnavailableError: a broker is away, or a newer worker has taken over. What was committed stays, the
            rest is aborted, and the next try goes on from there.
    """
    published = Published()
    most = max((chunk.records for chunk in manifest.chunks), default=0)
    with group_writer(config, manifest.group, manifest.topic, most) as writer:
        writer.check_topics(outlet.result_topic, outlet.dlq_topic)
        at = writer.offsets()
        if manifest.is_passed_by(at):
            return published
        ends = manifest.ends_behind(at)
        chunks = [chunk for chunk in manifest.chunks if (at[chunk.partition] or 0) < chunk.next]
        for chunk in chunks:
            offsets = {chunk.partition: chunk.next}
            if chunk is chunks[-1]:
                offsets |= ends
            origin = Origin(manifest.topic, chunk.partition, outlet.dag_id, outlet.task_id, outlet.stage)
            sent = Published()
            with writer.transaction(offsets):
                for results, rejects in _uncovered(chunk, at[chunk.partition]):
                    writer.send_all(outlet.result_topic, results)
                    for reject in rejects:
                        send_dead_letter(writer, outlet.dlq_topic, reject, origin)
                    sent.results += len(results)
                    sent.rejects.update(reject["reason"] for reject in rejects)
            published.results += sent.results
            published.rejects += sent.rejects
        if not chunks:
            # Only transaction markers, or aborted messages: nothing to send, but the group moves on.
            with writer.transaction(ends):
                pass
    return published


def _uncovered(chunk: Chunk, committed: int | None) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The results (key and value) and the rejects (rows of OUTCOME_SCHEMA) behind the committed offset, by and by."""
    for batch in read_batches(chunk.url):
        outcomes = batch
        if committed is not None and committed > chunk.first:
            outcomes = batch.filter(pc.greater_equal(batch.column("offset"), committed))
        for start in range(0, len(outcomes), _PIECE_RECORDS):
            piece = outcomes.slice(start, _PIECE_RECORDS)
            columns = [piece.column(name).to_pylist() for name in ("key", "value", "reason")]
            rows = zip(*columns, strict=True)
            results = [{"key": key, "value": value} for key, value, reason in rows if reason is None]
            yield results, piece.filter(pc.is_valid(piece.column("reason"))).to_pylist()


def send_dead_letter(writer: GroupWriter, dlq_topic: str, reject: dict[str, Any], origin: Origin) -> None:
    """Send a message as it was, with headers that say why it failed. `reject` is a row of OUTCOME_SCHEMA."""
    own = [(header["key"], header["value"]) for header in reject["headers"] or []]
    why = error_headers(origin, reject["offset"], reject["reason"], reject["message"], reject["stacktrace"])
    writer.send(dlq_topic, reject["key"], reject["value"], own + why)
