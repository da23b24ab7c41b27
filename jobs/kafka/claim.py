"""What a run works on: per partition the messages from the committed offset to an end that is fixed when it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from jobs.errors import IS_IT_UP, ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka.client import REQUEST_TIMEOUT_S
from jobs.kafka.dead_letter import error_text, headers_of

log = logging.getLogger(__name__)

# How many messages one call takes from librdkafka's queue, and how long it waits for them.
_BATCH = 10_000
_POLL_S = 1.0
# A group has no coordinator for a moment: on a fresh broker, and after one moved.
_ELECTING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


class Claim(msgspec.Struct, frozen=True):
    """The offsets [start, end) of one partition."""

    partition: int
    start: int
    end: int


class Committed(msgspec.Struct, frozen=True):
    """What a group has committed for one partition; offset is None where it never did."""

    offset: int | None
    metadata: str = ""


class Bounds(msgspec.Struct, frozen=True):
    """The offsets that a partition holds: [low, end), end being the last stable offset."""

    low: int
    end: int


def partitions(client: Consumer, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        ConfigurationError: there is no such topic, or there cannot be one of that name.
    """
    metadata = client.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        if metadata.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION):
            raise ConfigurationError(
                f"There is no topic {topic!r}: {metadata.error.str()}. `make topics` makes what infra/kafka/topics.yml "
                "says; the names are RAW_TOPIC, RESULT_TOPIC and DLQ_TOPIC."
            )
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)


def committed(client: Consumer, topic: str, of: Sequence[int]) -> dict[int, Committed]:
    """What the consumer's group has committed, by partition; an open transaction of the group is waited for."""
    asked = [TopicPartition(topic, partition) for partition in of]
    until_coordinated = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and error.args[0].code() in _ELECTING),
        stop=stop_after_delay(REQUEST_TIMEOUT_S),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    answers = until_coordinated(client.committed, asked, timeout=REQUEST_TIMEOUT_S)
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {
        answer.partition: Committed(None if answer.offset == OFFSET_INVALID else answer.offset, answer.metadata or "")
        for answer in answers
    }


def bounds(client: Consumer, topic: str, of: Sequence[int]) -> dict[int, Bounds]:
    """The low and the last stable offset of each partition.

    As for a time, Kafka's ListOffsets request takes -2 for the beginning and -1 for the end; the end is the last
    stable one because the consumer reads committed messages only. (An AdminClient needs a second to start.)
    """
    found: list[dict[int, int]] = []
    for edge in (OFFSET_BEGINNING, OFFSET_END):
        asked = [TopicPartition(topic, partition, edge) for partition in of]
        answers = client.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        found.append({answer.partition: answer.offset for answer in answers})
    lows, ends = found
    return {partition: Bounds(lows[partition], ends[partition]) for partition in of}


def holds_output(client: Consumer, topic: str, source: str) -> bool:
    """Whether a topic has a committed message that was made of one of `source`: a result, or a dead letter of it.

    Offsets alone do not tell: aborted messages take some too.
    """
    for partition, within in bounds(client, topic, partitions(client, topic)).items():
        with closing(read(client, topic, Claim(partition, within.low, within.end))) as messages:
            if any(error_text(headers_of(message), "topic") in ("", source) for batch in messages for message in batch):
                return True
    return False


def starting_offsets(
    topic: str, group: str, at: dict[int, Committed], within: dict[int, Bounds], *, has_output: bool
) -> dict[int, int]:
    """Where a claim starts in each partition.

    Args:
        has_output: whether the group's output exists already, so that starting anew would double it.

    Raises:
        OffsetsError: a committed offset lies outside what the topic holds, or the group has output but no offsets.
    """
    if has_output and all(committed.offset is None for committed in at.values()):
        raise OffsetsError(
            f"Group {group} has no committed offsets on {topic}, but its output exists: they expired or were deleted, "
            "and starting from the beginning would do the work twice. Set them by hand: docs/runbook_kafka.md, "
            '"Resetting offsets".'
        )
    starts = {}
    for partition, bound in within.items():
        offset = at[partition].offset
        start = bound.low if offset is None else offset
        if start < bound.low:
            raise OffsetsError(
                f"{topic}[{partition}]: group {group} committed offset {start}, but retention has deleted the "
                f"{bound.low - start} messages up to {bound.low}. They are lost to it. To go on from what is left: "
                'docs/runbook_kafka.md, "Resetting offsets".'
            )
        check_end(topic, group, partition, start, bound)
        starts[partition] = start
    return starts


def check_end(topic: str, group: str, partition: int, offset: int, within: Bounds) -> None:
    """Raises OffsetsError if an offset that a group has committed or planned lies behind the partition's end."""
    if offset > within.end:
        raise OffsetsError(
            f"{topic}[{partition}]: group {group} committed or planned offset {offset}, but the topic ends at "
            f'{within.end}: it was deleted and made anew. docs/runbook_kafka.md, "Resetting offsets".'
        )


def limited(starts: dict[int, int], within: dict[int, Bounds], max_records: int) -> list[Claim]:
    """A claim of at most `max_records` offsets in all, shared out so that no backlog starves a smaller one."""
    claims = []
    left = max_records
    by_backlog = sorted(starts, key=lambda partition: within[partition].end - starts[partition])
    for served, partition in enumerate(by_backlog):
        share = min(within[partition].end - starts[partition], left // (len(by_backlog) - served))
        claims.append(Claim(partition, starts[partition], starts[partition] + share))
        left -= share
    return sorted(claims, key=lambda claim: claim.partition)


def wait_for_message(client: Consumer, topic: str, starts: dict[int, int], timeout_s: float) -> bool:
    """Wait until a message arrives behind `starts`; whether one did."""
    client.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
    deadline = time.monotonic() + timeout_s
    try:
        while (left := deadline - time.monotonic()) > 0:
            message = client.poll(min(left, _POLL_S))
            if message is None:
                continue
            if (error := message.error()) is None:
                return True
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
        return False
    finally:
        client.unassign()


def read(client: Consumer, topic: str, claim: Claim) -> Generator[list[Message]]:
    """Read the committed messages of one claim, in order of offset, a list at a time.

    Transaction markers and aborted messages take offsets too, so the end is where the partition's position says,
    never a count of messages.

    Raises:
        ServiceUnavailableError: nothing came for a whole request timeout.
    """
    if claim.start == claim.end:
        return
    client.assign([TopicPartition(topic, claim.partition, claim.start)])
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    try:
        while True:
            # poll waits for one, consume takes what else is there: consume alone would wait for a full batch.
            if (message := client.poll(_POLL_S)) is not None:
                batch = [message, *client.consume(_BATCH, timeout=0)]
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
            elif time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"No message of {topic}[{claim.partition}] came for {REQUEST_TIMEOUT_S:.0f} s although the claim "
                    f"ends at {claim.end}. {IS_IT_UP}"
                )
            else:
                continue
            messages, ended = _until(claim.end, batch)
            if messages:
                yield messages
            if ended:
                return
    finally:
        client.unassign()


def _until(end: int, batch: list[Message]) -> tuple[list[Message], bool]:
    """The messages before `end`, and whether the partition's position has reached it."""
    if not any(map(Message.error, batch)) and batch[-1].offset() < end - 1:
        return batch, False
    messages = []
    for message in batch:
        error = message.error()
        if error is None:
            offset = message.offset()
            if offset < end:
                messages.append(message)
            if offset >= end - 1:
                return messages, True
        elif error.code() != KafkaError._PARTITION_EOF:
            log.error("%s[%s]@%s cannot be read", message.topic(), message.partition(), message.offset())
            raise KafkaException(error)
        elif message.offset() >= end:
            return messages, True
    return messages, False
