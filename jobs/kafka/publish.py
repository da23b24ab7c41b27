"""PublishKafka's work: results, dead letters and the group's offsets, one transaction per chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from jobs import cyclic_gc
from jobs.kafka.client import Config
from jobs.kafka.dead_letter import Origin, error_headers
from jobs.kafka.transaction import GroupWriter, group_writer
from jobs.staging import Chunk, Manifest, read_side_by_side

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
    """The results and the rejects behind the committed offset, by and by."""
    for messages, outcomes in read_side_by_side([chunk.messages_url, chunk.url], _PIECE_RECORDS):
        if committed is None or committed <= chunk.first:
            yield _sorted_out(messages, outcomes)
        else:
            is_new = pc.greater_equal(messages.column("offset"), committed)
            yield _sorted_out(messages.filter(is_new), outcomes.filter(is_new))


def _sorted_out(
    messages: pa.RecordBatch, outcomes: pa.RecordBatch
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results (key and value) and the rejects (as in REJECT_SCHEMA) of messages and what becomes of them."""
    keys, kept, added = (outcomes.column(name).to_pylist() for name in ("key", "kept", "added"))
    rows = zip(keys, messages.column("value").to_pylist(), kept, added, strict=True)
    results = [{"key": key, "value": value[:end] + more} for key, value, end, more in rows if more is not None]
    is_reject = pc.is_valid(outcomes.column("reason"))
    bad = zip(outcomes.filter(is_reject).to_pylist(), messages.filter(is_reject).to_pylist(), strict=True)
    return results, [outcome | message for outcome, message in bad]


def send_dead_letter(writer: GroupWriter, dlq_topic: str, reject: dict[str, Any], origin: Origin) -> None:
    """Send a message as it was, with headers that say why it failed. `reject` is as in REJECT_SCHEMA."""
    own = [(header["key"], header["value"]) for header in reject["headers"] or []]
    why = error_headers(origin, reject["offset"], reject["reason"], reject["message"], reject["stacktrace"])
    writer.send(dlq_topic, reject["key"], reject["value"], own + why)
