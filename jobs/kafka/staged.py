"""Staged files (claim checks): tasks pass on the URL of a manifest; the messages stay in Arrow files next to it.

Each try of a task has its own folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message
from pyarrow import fs

from jobs.errors import OffsetsError, StagedFilesGoneError
from jobs.kafka.dead_letter import read_all_headers
from jobs.kafka.scan import Claim

# An unchanged message: offset, timestamp in milliseconds since 1970, key, value and headers.
MESSAGE_SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
    ]
)
# The outcome of a message. A result has a new key and value, no headers and no reason. A reject keeps the message's
# key, value and headers byte for byte. `reason` is for programs, `message` for people. Only an unexpected error has a
# stack trace.
OUTCOME_SCHEMA = pa.schema(
    [
        *(MESSAGE_SCHEMA.field(name) for name in ("offset", "key", "value", "headers")),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("stacktrace", pa.string()),
    ]
)
# A reject with the partition of its message.
REJECT_SCHEMA = pa.schema([("partition", pa.int32()), *OUTCOME_SCHEMA])

# A list or an Arrow array with a value for each row; None if all are null.
Column = Sequence[Any] | None


class Chunk(msgspec.Struct, frozen=True):
    """A staged file with messages of one partition, from the offset `first` to the offset `last`.

    `size` is the size of their keys, values and headers in bytes; `oldest` the first of their timestamps, in
    milliseconds since 1970 (none in files of an earlier version).
    """

    partition: int
    first: int
    last: int
    records: int
    size: int
    url: str
    oldest: int | None = None

    @property
    def next(self) -> int:
        """The offset to commit when the chunk is done."""
        return self.last + 1


class Manifest(msgspec.Struct, frozen=True):
    """The claim of a run, its chunks, and its rejects.

    Attributes:
        topic_id: id of the topic when the claim was made.
        chunk_records, chunk_bytes: the limits; a chunk ends with the message that reaches one of them.
        rejects_url: an Arrow file of REJECT_SCHEMA.
        is_staged: whether the chunks hold the claim's messages. If not, there are no chunks, and the next task reads
            the messages from Kafka. True in files of an earlier version.
    """

    topic: str
    topic_id: str
    group: str
    claims: tuple[Claim, ...]
    chunks: tuple[Chunk, ...]
    chunk_records: int
    chunk_bytes: int
    rejects_url: str | None = None
    rejects: int = 0
    is_staged: bool = True

    @property
    def records(self) -> int:
        return sum(chunk.records for chunk in self.chunks)

    @property
    def is_empty(self) -> bool:
        """Whether the claim has no offsets."""
        return all(claim.start == claim.end for claim in self.claims)

    @property
    def age_s(self) -> float | None:
        """Seconds since its oldest message was written; None if its files do not tell."""
        oldest = [chunk.oldest for chunk in self.chunks if chunk.oldest is not None]
        return max(0.0, time.time() - min(oldest) / 1000) if oldest else None

    @property
    def ends(self) -> dict[int, int]:
        """The offsets to commit when the run is done, by partition."""
        return {claim.partition: claim.end for claim in self.claims}

    def check_topic(self, topic_id: str) -> None:
        """Raise OffsetsError if the topic has another id now, because it was deleted and recreated."""
        if topic_id != self.topic_id:
            raise OffsetsError(
                f"{self.topic} was deleted and recreated since this run's claim (id {self.topic_id}, now {topic_id}). "
                "Nothing was committed. The error of the next run says what to do."
            )

    def list_ends_after(self, offsets: dict[int, int | None]) -> dict[int, int]:
        """The claim's ends that are not below the committed offsets, by partition, so that no commit goes backwards.

        An unchanged offset is committed again, because Kafka deletes offsets that are older than
        offsets.retention.minutes.

        Raises:
            OffsetsError: the group was set back to before the claim, so messages in between would be skipped.
        """
        for claim in self.claims:
            offset = offsets[claim.partition]
            if offset is not None and offset < claim.start:
                raise OffsetsError(
                    f"{self.topic}[{claim.partition}]: group {self.group} was set back to {offset}, before "
                    f"{claim.start} where this run's claim starts. Nothing was committed. Clear the run from "
                    "ConsumeKafka on."
                )
        return {
            partition: end
            for partition, end in self.ends.items()
            if (offset := offsets[partition]) is None or offset <= end
        }

    def is_passed_by(self, offsets: dict[int, int | None]) -> bool:
        """Whether the committed offsets cover the whole claim, so that nothing is left to do."""
        return all((offsets.get(claim.partition) or 0) >= claim.end for claim in self.claims)


def read_manifest(url: str) -> Manifest:
    """Read a manifest.

    Raises:
        StagedFilesGoneError: the run's work is already committed, or a later run does it.
    """
    filesystem, path = fs.FileSystem.from_uri(url)
    try:
        with filesystem.open_input_stream(path) as stream:
            return msgspec.json.decode(stream.read(), type=Manifest)
    except FileNotFoundError as error:
        raise StagedFilesGoneError(
            f"{url} was deleted: this run's work is already committed, or a later run does it. Nothing is left to do. "
            "To process new messages, clear the run from ConsumeKafka on."
        ) from error


def make_outcome_batch(
    messages: pa.RecordBatch,
    *,
    keys: Column = None,
    values: Column = None,
    reasons: Column = None,
    texts: Column = None,
    stacktraces: Column = None,
) -> pa.RecordBatch:
    """Build a batch of OUTCOME_SCHEMA with one row for each message.

    Args:
        messages: a batch of MESSAGE_SCHEMA.
        keys: keys of the results; null for rejects.
        values: values of the results; null for rejects.
        reasons: the reasons of the rejects, for programs; null for results.
        texts: the errors of the rejects, for people; null for results.
        stacktraces: stack traces of unexpected errors; null for all others.
    """
    own = {
        "key": keys,
        "value": values,
        "headers": None,
        "reason": reasons,
        "message": texts,
        "stacktrace": stacktraces,
    }
    columns = {
        name: _make_column(values, OUTCOME_SCHEMA.field(name).type, len(messages)) for name, values in own.items()
    }
    is_result = columns["reason"].is_null()
    for name in ("key", "value", "headers"):
        columns[name] = pc.if_else(is_result, columns[name], messages.column(name))
    return pa.record_batch([messages.column("offset"), *columns.values()], schema=OUTCOME_SCHEMA)


def _make_column(values: Column, kind: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def make_reject_batch(partition: int, messages: pa.RecordBatch, reason: str, texts: list[str]) -> pa.RecordBatch:
    """A batch of REJECT_SCHEMA with messages (rows of MESSAGE_SCHEMA) that are rejected for the same reason."""
    outcomes = make_outcome_batch(messages, reasons=[reason] * len(messages), texts=texts)
    partitions = pa.repeat(pa.scalar(partition, pa.int32()), len(messages))
    return pa.record_batch([partitions, *outcomes.columns], schema=REJECT_SCHEMA)


def make_message_batch(messages: list[Message]) -> pa.RecordBatch:
    """Messages as a batch of MESSAGE_SCHEMA."""
    return pa.record_batch(
        [
            pa.array(list(map(Message.offset, messages)), pa.int64()),
            pa.array([milliseconds for _, milliseconds in map(Message.timestamp, messages)], pa.int64()),
            pa.array(list(map(Message.key, messages)), pa.binary()),
            pa.array(list(map(Message.value, messages)), pa.binary()),
            _make_headers(messages),
        ],
        schema=MESSAGE_SCHEMA,
    )


def _make_headers(messages: list[Message]) -> pa.ListArray:
    kind = MESSAGE_SCHEMA.field("headers").type
    all_headers = read_all_headers(messages)
    if not any(all_headers):
        return pa.nulls(len(messages), kind)
    return pa.array(
        [
            None if headers is None else [{"key": key, "value": value} for key, value in headers]
            for headers in all_headers
        ],
        kind,
    )
