"""Read the committed messages in ranges of a topic's offsets, in lists, with progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from jobs.errors import IS_IT_UP, ServiceUnavailableError
from jobs.kafka.client import REQUEST_TIMEOUT_S
from jobs.kafka.offsets import Bounds
from jobs.progress import Progress

log = logging.getLogger(__name__)


# The most messages that one call takes from librdkafka's queue, and the time that it waits for a message.
_BATCH = 10_000
_POLL_S = 1.0


class Claim(msgspec.Struct, frozen=True):
    """The offsets [start, end) of one partition."""

    partition: int
    start: int
    end: int


def claim_all(bounds: Mapping[int, Bounds]) -> list[Claim]:
    """All readable offsets of each partition."""
    return [Claim(partition, bound.low, bound.end) for partition, bound in bounds.items()]


def scan(
    client: Consumer, topic: str, ranges: Iterable[Claim], progress: Progress = lambda *_: None, doing: str = ""
) -> Generator[list[Message]]:
    """Read the committed messages of ranges, one partition after the other, in order of offset.

    Args:
        doing: a word that `progress` shows before the topic's name.

    Yields:
        Lists of messages of one partition.

    Raises:
        ServiceUnavailableError: as for `read`.
    """
    claims = [claim for claim in ranges if claim.start < claim.end]
    title = f"{doing} {topic}".strip()
    passed, total = 0, sum(claim.end - claim.start for claim in claims)
    for claim in claims:
        with closing(read(client, topic, claim)) as lists:
            for messages in lists:
                yield messages
                progress(title, passed + messages[-1].offset() + 1 - claim.start, total)
        passed += claim.end - claim.start
    if total:
        progress(title, total, total)


def read(client: Consumer, topic: str, claim: Claim) -> Generator[list[Message]]:
    """Read the committed messages of one claim, in order of offset, in lists.

    Transaction markers and aborted messages take offsets too, so the position of the partition marks the end, not a
    count of messages.

    Raises:
        ServiceUnavailableError: no message arrived within a request timeout.
    """
    if claim.start == claim.end:
        return
    client.assign([TopicPartition(topic, claim.partition, claim.start)])
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    try:
        while True:
            # poll waits for one message, consume takes those that are queued. consume alone waits for a full batch.
            if (message := client.poll(_POLL_S)) is not None:
                batch = [message, *client.consume(_BATCH, timeout=0)]
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
            elif time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"No message of {topic}[{claim.partition}] arrived within {REQUEST_TIMEOUT_S:.0f} s, but the claim "
                    f"ends at {claim.end}. {IS_IT_UP}"
                )
            else:
                continue
            messages, ended = _split_at(claim.end, batch)
            if messages:
                yield messages
            if ended:
                return
    finally:
        client.unassign()


def _split_at(end: int, batch: list[Message]) -> tuple[list[Message], bool]:
    """The messages before `end`, and whether the partition's position has reached `end`."""
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
            log.error("Cannot read %s[%s]@%s", message.topic(), message.partition(), message.offset())
            raise KafkaException(error)
        elif message.offset() >= end:
            return messages, True
    return messages, False
