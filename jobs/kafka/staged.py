"""Claim checks: tasks hand each other the URL of a manifest; the messages stay in Arrow files next to it.

Each try of a task has a folder for its files.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message
from pyarrow import fs

from jobs.errors import OffsetsError, StagedFilesGoneError
from jobs.kafka.dead_letter import headers_of_all
from jobs.kafka.scan import Claim

# A message as it was: offset, timestamp in milliseconds since 1970, key, value and headers, byte for byte.
MESSAGE_SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
    ]
)
# A message that cannot go on, and why: a machine's reason, a text for people, a stack trace for the unexpected.
REJECT_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        *(MESSAGE_SCHEMA.field(name) for name in ("offset", "key", "value", "headers")),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("stacktrace", pa.string()),
    ]
)
# What becomes of a message. A result has a key and, for its value, what is added; one that extends its message begins
# with the message's value less its last byte, the brace that closes it. A reject has a reason instead (REJECT_SCHEMA).
OUTCOME_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("extends", pa.bool_()),
        ("added", pa.binary()),
        *(REJECT_SCHEMA.field(name) for name in ("reason", "message", "stacktrace")),
    ]
)


class Chunk(msgspec.Struct, frozen=True):
    """A staged file with messages of one partition, from the offset `first` to the offset `last`.

    `size` is that of their keys, values and headers in bytes. Where the file only says what becomes of them, row by
    row, they are in the one at `messages_url`.
    """

    partition: int
    first: int
    last: int
    records: int
    size: int
    url: str
    messages_url: str = ""

    @property
    def next(self) -> int:
        """The offset to commit once the chunk is done with."""
        return self.last + 1


class Manifest(msgspec.Struct, frozen=True):
    """What a run works on, where its chunks are, and the messages that cannot go on.

    `topic_id` is that of the topic when the claim was made. A chunk was ended by the message that reached
    `chunk_records` or `chunk_bytes`. `rejects_url` is an Arrow file of REJECT_SCHEMA.
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

    @property
    def records(self) -> int:
        return sum(chunk.records for chunk in self.chunks)

    @property
    def ends(self) -> dict[int, int]:
        """The offsets that the group has committed when the run is done, by partition."""
        return {claim.partition: claim.end for claim in self.claims}

    def check_topic(self, topic_id: str) -> None:
        """Raises OffsetsError if the topic's id is another one by now: it was deleted and made again."""
        if topic_id != self.topic_id:
            raise OffsetsError(
                f"{self.topic} was deleted and made again since this run's claim (id {self.topic_id}, now {topic_id}). "
                "Nothing was committed. The next run says what to do."
            )

    def ends_behind(self, offsets: dict[int, int | None]) -> dict[int, int]:
        """The ends that are not behind committed offsets (by partition), so that no commit goes backwards.

        An offset that stays the same is committed again: Kafka forgets those of partitions that stand still for longer
        than offsets.retention.minutes.

        Raises:
            OffsetsError: the group was set back to before the claim: what lies in between would be left out.
        """
        for claim in self.claims:
            at = offsets[claim.partition]
            if at is not None and at < claim.start:
                raise OffsetsError(
                    f"{self.topic}[{claim.partition}]: group {self.group} was set back to {at}, before {claim.start} "
                    "where this run's claim starts. Nothing was committed. Clear the run from ConsumeKafka on."
                )
        return {p: end for p, end in self.ends.items() if (at := offsets[p]) is None or at <= end}

    def is_passed_by(self, offsets: dict[int, int | None]) -> bool:
        """Whether committed offsets (by partition) cover the whole claim, so that nothing is left to do."""
        return all((offsets.get(claim.partition) or 0) >= claim.end for claim in self.claims)


def read_manifest(url: str) -> Manifest:
    """Read a manifest.

    Raises:
        StagedFilesGoneError: the run's work was committed, or a later run has taken it over.
    """
    filesystem, path = fs.FileSystem.from_uri(url)
    try:
        with filesystem.open_input_stream(path) as stream:
            return msgspec.json.decode(stream.read(), type=Manifest)
    except FileNotFoundError as error:
        raise StagedFilesGoneError(
            f"{url} is gone: this run's work was committed, or a later run has taken it over. Nothing is left to do; "
            "clear the run from ConsumeKafka on to work on what is there now."
        ) from error


def result_values(messages: Any, outcomes: Any) -> Any:
    """The values of results.

    Args:
        messages: values of messages, an array, chunked or not.
        outcomes: what becomes of them, row by row: a batch or table of OUTCOME_SCHEMA.

    Returns:
        An array of the same kind; of a reject it holds nothing of use.
    """
    beginnings = pc.binary_slice(pc.if_else(outcomes["extends"], messages, None), 0, -1)
    return pc.binary_join_element_wise(
        beginnings, outcomes["added"], b"", null_handling="replace", null_replacement=b""
    )


def reject_batch(partition: int, messages: pa.RecordBatch, reason: str, texts: list[str]) -> pa.RecordBatch:
    """Messages (rows of MESSAGE_SCHEMA) that cannot go on for one reason, as a batch of REJECT_SCHEMA."""
    count = len(messages)
    return pa.record_batch(
        [
            pa.repeat(pa.scalar(partition, pa.int32()), count),
            *(messages.column(name) for name in ("offset", "key", "value", "headers")),
            pa.repeat(pa.scalar(reason, pa.string()), count),
            pa.array(texts, pa.string()),
            pa.nulls(count, pa.string()),
        ],
        schema=REJECT_SCHEMA,
    )


def message_batch(messages: list[Message]) -> pa.RecordBatch:
    """Messages as a batch of MESSAGE_SCHEMA."""
    return pa.record_batch(
        [
            pa.array(list(map(Message.offset, messages)), pa.int64()),
            pa.array([milliseconds for _, milliseconds in map(Message.timestamp, messages)], pa.int64()),
            pa.array(list(map(Message.key, messages)), pa.binary()),
            pa.array(list(map(Message.value, messages)), pa.binary()),
            _headers(messages),
        ],
        schema=MESSAGE_SCHEMA,
    )


def _headers(messages: list[Message]) -> pa.ListArray:
    kind = MESSAGE_SCHEMA.field("headers").type
    all_headers = headers_of_all(messages)
    if not any(all_headers):
        return pa.nulls(len(messages), kind)
    return pa.array(
        [
            None if headers is None else [{"key": key, "value": value} for key, value in headers]
            for headers in all_headers
        ],
        kind,
    )
