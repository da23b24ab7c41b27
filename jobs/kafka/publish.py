"""PublishKafka's work: results, dead letters and the group's offsets, one transaction per chunk."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from jobs import cyclic_gc
from jobs.kafka.client import Config
from jobs.kafka.dead_letter import Origin, error_headers
from jobs.kafka.transaction import GroupWriter, group_writer
from jobs.staging import MESSAGE_SCHEMA, REJECT_SCHEMA, Chunk, Manifest, prefetched, read_batches, result_values

_REJECT_NAMES = [name for name in REJECT_SCHEMA.names if name != "partition"]
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
        for chunk, (outcomes, rejects) in prefetched(lambda it: _uncovered(it, at[it.partition]), chunks):
            offsets = {chunk.partition: chunk.next}
            if chunk is chunks[-1]:
                offsets |= ends
            origin = Origin(manifest.topic, chunk.partition, outlet.dag_id, outlet.task_id, outlet.stage)
            with writer.transaction(offsets):
                for piece in outcomes.to_batches(_PIECE_RECORDS):
                    writer.send_all(outlet.result_topic, _results(piece))
                for reject in rejects:
                    send_dead_letter(writer, outlet.dlq_topic, reject, origin)
            published.results += len(outcomes) - len(rejects)
            published.rejects.update(reject["reason"] for reject in rejects)
        if not chunks:
            # Only transaction markers, or aborted messages: nothing to send, but the group moves on.
            with writer.transaction(ends):
                pass
    return published


def _uncovered(chunk: Chunk, committed: int | None) -> tuple[pa.Table, list[dict[str, Any]]]:
    """What is behind the committed offset: keys, values and which are results; the rejects, for `send_dead_letter`."""
    messages, outcomes = (pa.Table.from_batches(read_batches(url)) for url in (chunk.messages_url, chunk.url))
    if committed is not None and committed > chunk.first:
        is_new = pc.greater_equal(messages["offset"], committed)
        messages, outcomes = messages.filter(is_new), outcomes.filter(is_new)
    is_reject = pc.is_valid(outcomes["reason"])
    bad = {
        name: (messages if name in MESSAGE_SCHEMA.names else outcomes)[name].filter(is_reject).to_pylist()
        for name in _REJECT_NAMES
    }
    # to_pylist of the whole table takes three times as long.
    rejects = [dict(zip(bad, row, strict=True)) for row in zip(*bad.values(), strict=True)]
    if outcomes["added"].null_count > len(rejects):
        raise ValueError(f"{chunk.url}: an outcome has neither a value nor a reason")
    values = result_values(messages["value"], outcomes)
    return pa.table({"key": outcomes["key"], "value": values, "is_result": pc.invert(is_reject)}), rejects


def _results(piece: pa.RecordBatch) -> list[dict[str, Any]]:
    rows = zip(*(column.to_pylist() for column in piece.columns), strict=True)
    return [{"key": key, "value": value} for key, value, is_result in rows if is_result]


def send_dead_letter(writer: GroupWriter, dlq_topic: str, reject: dict[str, Any], origin: Origin) -> None:
    """Send a message as it was, with headers that say why it failed. `reject` has at least what REJECT_SCHEMA has."""
    own = [(header["key"], header["value"]) for header in reject["headers"] or []]
    why = error_headers(origin, reject["offset"], reject["reason"], reject["message"], reject["stacktrace"])
    writer.send(dlq_topic, reject["key"], reject["value"], own + why)
