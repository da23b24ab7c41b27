"""Read the latest dead letters, and send dead letters back to their source topics, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

import msgspec
from confluent_kafka import Consumer, Message

from jobs.kafka.claim import choose_starting_offsets
from jobs.kafka.client import Config, open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import count_replays, is_dead_letter_of, make_replay_headers, read_error, read_headers
from jobs.kafka.offsets import (
    SETTLE_S,
    Bounds,
    HeldBack,
    list_held_back,
    list_partitions,
    open_group_reader,
    read_bounds,
)
from jobs.kafka.ownership import check_ownership
from jobs.kafka.scan import Claim, scan
from jobs.kafka.transaction import open_group_writer

_CHUNK = 10_000


class Replayed(msgspec.Struct):
    """The result of a replay.

    Attributes:
        sent: number of dead letters sent back, by topic.
        left: number that were left because they have been replayed max_replays times.
        foreign: number that this pipeline did not write.
        held: dead letters that open transactions hold back.
    """

    sent: Counter[str] = msgspec.field(default_factory=Counter)
    left: int = 0
    foreign: int = 0
    held: list[HeldBack] = msgspec.field(default_factory=list)


def read_latest(config: Config, topic: str, count: int) -> list[Message]:
    """The latest dead letters by time, newest first."""
    messages: list[Message] = []
    with translate_broker_errors(config, f"reading {topic}"), open_consumer(config, "dlq") as client:
        partitions = list_partitions(client, topic)
        for partition, bounds in read_bounds(config, client, topic, partitions, settle_s=SETTLE_S).items():
            messages += _read_last(client, topic, partition, bounds, count)
    return sorted(messages, key=lambda message: message.timestamp()[1], reverse=True)[:count]


def _read_last(client: Consumer, topic: str, partition: int, bounds: Bounds, count: int) -> list[Message]:
    """The last messages of a partition. Transaction markers take offsets too, so the range grows until it suffices."""
    span = 2 * count
    while True:
        start = max(bounds.low, bounds.end - span)
        messages = list(chain.from_iterable(scan(client, topic, [Claim(partition, start, bounds.end)])))
        if len(messages) >= count or start == bounds.low:
            return messages[-count:]
        span *= 4


def replay(config: Config, topic: str, group: str, sources: Mapping[str, str], max_replays: int) -> Replayed:
    """Send the dead letters that were not replayed yet back to their source topics, exactly once.

    Args:
        group: consumer group of the replay.
        sources: the source topics that are allowed, each with the DAG that writes its dead letters.
        max_replays: leave messages that were sent back this many times.

    Raises:
        OffsetsError: another client committed with this group id.
        ServiceUnavailableError: a broker is down. Messages that were sent stay sent; run it again to resume.
    """
    with translate_broker_errors(config, f"reading {topic}"), open_group_reader(config, topic, group) as reader:
        check_ownership(config, reader)
    replayed = Replayed()
    with open_group_writer(config, group, topic, _CHUNK) as writer:
        writer.read_committed()  # raises if another client committed
        for partition, messages in _read_waiting(config, topic, group, replayed):
            with writer.transaction({partition: messages[-1].offset() + 1}):
                for source, message in _sort(messages, sources, max_replays, replayed):
                    writer.send(source, message.key(), message.value(), make_replay_headers(read_headers(message)))
    return replayed


def count_replayable(config: Config, topic: str, group: str, sources: Mapping[str, str], max_replays: int) -> Replayed:
    """Count what `replay` would do. Sends nothing."""
    replayed = Replayed()
    for _, messages in _read_waiting(config, topic, group, replayed):
        _sort(messages, sources, max_replays, replayed)
    return replayed


def _read_waiting(config: Config, topic: str, group: str, replayed: Replayed) -> Iterator[tuple[int, list[Message]]]:
    """Read the dead letters that were not replayed yet, by partition. Sets `replayed.held`."""
    with translate_broker_errors(config, f"reading {topic}"), open_group_reader(config, topic, group) as reader:
        offsets = reader.observe()
        bounds = read_bounds(config, reader.consumer, topic, list(offsets), settle_s=SETTLE_S)
        replayed.held = list_held_back(topic, bounds)
        starts = choose_starting_offsets(topic, group, offsets, bounds, has_output=False)
        ranges = [Claim(partition, start, bounds[partition].end) for partition, start in starts.items()]
        for messages in scan(reader.consumer, topic, ranges):
            yield messages[0].partition(), messages


def _sort(
    messages: list[Message], sources: Mapping[str, str], max_replays: int, replayed: Replayed
) -> list[tuple[str, Message]]:
    """The dead letters to send back, each with its source topic. Adds all to the counts of `replayed`."""
    going = []
    for message in messages:
        headers = read_headers(message)
        source = read_error(headers, "topic")
        if source not in sources or not is_dead_letter_of(headers, source, sources[source]):
            replayed.foreign += 1
        elif count_replays(headers) < max_replays:
            going.append((source, message))
            replayed.sent[source] += 1
        else:
            replayed.left += 1
    return going
