"""Setting a group's offsets: by the copy that is kept of them, to an edge of the topic, or to a moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
from confluent_kafka import TopicPartition

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka.claim import Claim, read
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, broker_errors
from jobs.kafka.offsets import SETTLE_S, Bounds, Committed, GroupReader, bounds, group_reader, held_back, read_topic_id
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import group_writer

Progress = Callable[[str, int, int], object]


class Move(msgspec.Struct, frozen=True):
    """One partition: from where this pipeline was (None: nobody knows) to where it shall be.

    Going on from there, `skipped` messages are never read, and `repeated` ones a second time. Where nobody knows where
    the group was, both are what there may be at most.
    """

    partition: int
    before: int | None
    target: Committed
    skipped: int
    repeated: int


class Moves(msgspec.Struct, frozen=True):
    """What setting the offsets of a group on its topic, which has this id, would do."""

    topic: str
    topic_id: str
    group: str
    moves: list[Move]

    @property
    def skipped(self) -> int:
        return sum(move.skipped for move in self.moves)

    @property
    def repeated(self) -> int:
        return sum(move.repeated for move in self.moves)

    @property
    def is_certain(self) -> bool:
        """Whether it is known where the group was."""
        return all(move.before is not None for move in self.moves)


def look(
    config: Config, topic: str, group: str, to: str, *, topic_ids: TopicIds, progress: Progress = lambda *_: None
) -> Moves:
    """Count what setting the offsets would skip or repeat, message by message. Changes nothing.

    Args:
        to: kept, beginning, end, or a moment as RFC 3339: the first message at or after it, by Kafka's time stamps.
        progress: told what is read, how much of it is done and how much there is.

    Raises:
        ConfigurationError: `to` is none of these.
        OffsetsError: nothing is kept.
        ServiceUnavailableError: an open transaction hides messages behind the end.
    """
    moment = _moment(to)
    with broker_errors(config, f"reading {topic}"), group_reader(config, topic, group) as reader:
        asked = reader.partitions()
        topic_id = read_topic_id(config, topic)
        within = bounds(config, reader.consumer, topic, asked, settle_s=SETTLE_S)
        if to == "end" and (held := held_back(topic, within)):
            raise ServiceUnavailableError(
                f"An open transaction holds messages back, which `end` would skip unread: {'; '.join(map(str, held))}. "
                "Nothing was changed. Try again when it has ended."
            )
        before = _positions(reader, within, topic_id, topic_ids.read(group, topic))
        targets = _targets(reader, within, to, moment)
        moves = []
        for number, partition in enumerate(asked):
            target = targets[partition]
            skipped, repeated = _count(reader, partition, before[partition], target.offset, within[partition])
            moves.append(Move(partition, before[partition], target, skipped, repeated))
            progress(f"counting {topic}", number + 1, len(asked))
    return Moves(topic, topic_id, group, moves)


def set_offsets(config: Config, wanted: Moves, topic_ids: TopicIds) -> None:
    """Commit the targets, for the group and for its copy, and remember the topic.

    Raises:
        OffsetsError: the topic was made again since the look; nothing was committed.
        ServiceUnavailableError: a broker is away; doing it again is harmless.
    """
    with group_writer(config, wanted.group, wanted.topic, 1) as writer:
        if writer.topic_id != wanted.topic_id:
            raise OffsetsError(f"{wanted.topic} was made again just now. Nothing was committed. Do the same again.")
        offsets = {it.partition: it.target.offset for it in wanted.moves if it.target.offset is not None}
        plans = {it.partition: plan for it in wanted.moves if (plan := it.target.plan(msgspec.Raw)) is not None}
        with writer.transaction(offsets, {it: bytes(plan) for it, plan in plans.items()}):
            pass
    # After the commit: killed in between, the group is still refused, and the same command again sets it right.
    topic_ids.remember(wanted.group, wanted.topic, wanted.topic_id)


def _moment(to: str) -> datetime | None:
    if to in ("kept", "beginning", "end"):
        return None
    try:
        moment = datetime.fromisoformat(to)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f"TO={to!r}: give kept, beginning, end, or a time with its offset, such as 2026-01-05T08:00:00Z."
        )
    return moment


def _positions(
    reader: GroupReader, within: dict[int, Bounds], topic_id: str, remembered: str | None
) -> dict[int, int | None]:
    """Where this pipeline was: by the copy, or by the group itself where an earlier version kept none."""
    if remembered not in (None, topic_id):  # it has read nothing of this topic
        return {it: found.low for it, found in within.items()}
    known = reader.kept()
    if remembered is None and all(it.offset is None for it in known.values()):
        known = reader.unchecked()
    if all(it.offset is None for it in known.values()):
        return dict.fromkeys(within)
    # A partition without an offset beside others that have one is new.
    return {it: found.low if known[it].offset is None else known[it].offset for it, found in within.items()}


def _targets(reader: GroupReader, within: dict[int, Bounds], to: str, moment: datetime | None) -> dict[int, Committed]:
    if to == "kept":
        kept = reader.kept()
        if all(found.offset is None for found in kept.values()):
            raise OffsetsError(
                f"No copy of the offsets of group {reader.group} on {reader.topic} is kept (any more). Nothing was "
                'changed. docs/runbook_kafka.md, "Setting offsets", says what else there is.'
            )
        return {it: kept[it] if kept[it].offset is not None else Committed(found.low) for it, found in within.items()}
    if to == "beginning":
        return {it: Committed(found.low) for it, found in within.items()}
    if moment is None:
        return {it: Committed(found.end) for it, found in within.items()}
    asked = [TopicPartition(reader.topic, it, int(moment.timestamp() * 1000)) for it in within]
    found = reader.consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
    # A negative offset: all messages are older.
    return {it.partition: Committed(it.offset if it.offset >= 0 else within[it.partition].end) for it in found}


def _count(
    reader: GroupReader, partition: int, before: int | None, target: int | None, within: Bounds
) -> tuple[int, int]:
    """How many messages are skipped and repeated."""
    target = within.low if target is None else target
    skipped_from, repeated_to = (within.low, within.end) if before is None else (before, before)
    return (
        _messages(reader, partition, max(skipped_from, within.low), min(target, within.end)),
        _messages(reader, partition, max(target, within.low), min(repeated_to, within.end)),
    )


def _messages(reader: GroupReader, partition: int, start: int, end: int) -> int:
    if start >= end:
        return 0
    return sum(map(len, read(reader.consumer, reader.topic, Claim(partition, start, end))))
