"""What a run works on: per partition the messages from the committed offset to an end that is fixed when it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from jobs.errors import IS_IT_UP, OffsetsError, ServiceUnavailableError
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config
from jobs.kafka.dead_letter import headers_of, is_dead_letter_of
from jobs.kafka.offsets import SETTLE_S, Bounds, Committed, bounds, partitions

log = logging.getLogger(__name__)

# How many messages one call takes from librdkafka's queue, and how long it waits for them.
_BATCH = 10_000
_POLL_S = 1.0


class Claim(msgspec.Struct, frozen=True):
    """The offsets [start, end) of one partition."""

    partition: int
    start: int
    end: int


def holds_results(config: Config, client: Consumer, topic: str) -> bool:
    """Whether a topic has a committed message. Offsets alone do not tell: aborted messages take some too."""
    return _any(config, client, topic, lambda _: True)


def holds_dead_letters(config: Config, client: Consumer, topic: str, source: str, dag_id: str) -> bool:
    """Whether a topic has a dead letter of a source topic that one DAG has written."""
    return _any(config, client, topic, lambda message: is_dead_letter_of(headers_of(message), source, dag_id))


def _any(config: Config, client: Consumer, topic: str, is_wanted: Callable[[Message], bool]) -> bool:
    for partition, within in bounds(config, client, topic, partitions(client, topic), settle_s=SETTLE_S).items():
        with closing(read(client, topic, Claim(partition, within.low, within.end))) as messages:
            if any(is_wanted(message) for batch in messages for message in batch):
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
            f"Group {group} has no committed offsets on {topic}, but its output exists: they expired or were deleted "
            "with their copy (the topic is the same), and starting from the beginning would do the work twice: "
            'docs/runbook_kafka.md, "Setting offsets".'
        )
    starts = {}
    for partition, bound in within.items():
        offset = at[partition].offset
        start = bound.low if offset is None else offset
        if start < bound.low:
            raise OffsetsError(
                f"{topic}[{partition}]: group {group} committed offset {start}, but retention has deleted the "
                f"{bound.low - start} messages up to {bound.low}. They are lost to it. To go on from what is left: "
                f"`make offsets GROUP={group} TO=beginning`."
            )
        check_end(topic, group, partition, start, bound)
        starts[partition] = start
    return starts


def check_end(topic: str, group: str, partition: int, offset: int, within: Bounds) -> None:
    """Raises OffsetsError if an offset that a group has committed or planned lies behind the partition's end."""
    if offset > within.end:
        raise OffsetsError(
            f"{topic}[{partition}]: group {group} committed or planned offset {offset}, but the topic ends at "
            f"{within.end}: its end was lost (an unclean broker, a restored disk). docs/runbook_kafka.md, "
            '"Setting offsets".'
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
