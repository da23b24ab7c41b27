"""Dead letters: the latest ones, and sending them back to their source topic, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
from confluent_kafka import Consumer, Message

from jobs.kafka.claim import Bounds, Claim, bounds, committed, partitions, read, starting_offsets
from jobs.kafka.client import Config, broker_errors, consumer
from jobs.kafka.dead_letter import error_text, headers_of, replay_headers, times_replayed
from jobs.kafka.transaction import group_writer

GROUP = "dlq_replay"
_CHUNK = 10_000


class Replayed(msgspec.Struct):
    """What became of dead letters: sent back by topic, and left alone because they were sent back often enough."""

    sent: Counter[str] = msgspec.field(default_factory=Counter)
    left: int = 0


def latest(config: Config, topic: str, count: int) -> list[Message]:
    """The latest dead letters by time, newest first."""
    found: list[Message] = []
    with broker_errors(config, f"reading {topic}"), consumer(config, GROUP) as client:
        for partition, within in bounds(client, topic, partitions(client, topic)).items():
            found += _last(client, topic, partition, within, count)
    return sorted(found, key=lambda message: message.timestamp()[1], reverse=True)[:count]


def _last(client: Consumer, topic: str, partition: int, within: Bounds, count: int) -> list[Message]:
    """The last messages of a partition. Transaction markers take offsets too, so it looks ever further back."""
    span = 2 * count
    while True:
        start = max(within.low, within.end - span)
        found = [it for messages in read(client, topic, Claim(partition, start, within.end)) for it in messages]
        if len(found) >= count or start == within.low:
            return found[-count:]
        span *= 4


def replay(config: Config, topic: str, sources: tuple[str, ...], max_replays: int) -> Replayed:
    """Send the dead letters that were not replayed yet back to the topics that they came from, exactly once.

    Args:
        sources: the topics that messages may go back to.
        max_replays: leave alone what was sent back so often already.
    """
    replayed = Replayed()
    with group_writer(config, GROUP, topic, _CHUNK) as writer:
        for partition, messages in _waiting(config, topic):
            with writer.transaction({partition: messages[-1].offset() + 1}):
                for source, message in _sort(messages, sources, max_replays, replayed):
                    writer.send(source, message.key(), message.value(), replay_headers(headers_of(message)))
    return replayed


def count_replayable(config: Config, topic: str, sources: tuple[str, ...], max_replays: int) -> Replayed:
    """What `replay` would do."""
    replayed = Replayed()
    for _, messages in _waiting(config, topic):
        _sort(messages, sources, max_replays, replayed)
    return replayed


def _waiting(config: Config, topic: str) -> Iterator[tuple[int, list[Message]]]:
    """The dead letters behind what was replayed, by partition."""
    with broker_errors(config, f"reading {topic}"), consumer(config, GROUP) as client:
        at = committed(client, topic, partitions(client, topic))
        within = bounds(client, topic, list(at))
        starts = starting_offsets(topic, GROUP, at, within, has_output=False)
        for partition, start in starts.items():
            for messages in read(client, topic, Claim(partition, start, within[partition].end)):
                yield partition, messages


def _sort(
    messages: list[Message], sources: tuple[str, ...], max_replays: int, replayed: Replayed
) -> list[tuple[str, Message]]:
    """The dead letters to send back with the topic that each goes to; counts them, and those left alone."""
    going = []
    for message in messages:
        source = error_text(headers_of(message), "topic")
        if source in sources and times_replayed(headers_of(message)) < max_replays:
            going.append((source, message))
            replayed.sent[source] += 1
        else:
            replayed.left += 1
    return going
