"""Set a group's offsets: to their copy, to the beginning or end of the topic, or to a time."""

from __future__ import annotations

from datetime import datetime

import msgspec
from confluent_kafka import TopicPartition

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, translate_broker_errors
from jobs.kafka.offsets import (
    SETTLE_S,
    Bounds,
    Committed,
    GroupReader,
    list_held_back,
    open_group_reader,
    read_bounds,
    read_topic_id,
)
from jobs.kafka.ownership import is_ours
from jobs.kafka.scan import Claim, scan
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import open_group_writer
from jobs.progress import Progress


class Move(msgspec.Struct, frozen=True):
    """The move of a group on one partition.

    Attributes:
        before: the offset where this pipeline was; None if unknown.
        target: the offset to set.
        skipped: number of messages that will never be read; at most this many if `before` is None.
        repeated: number of messages that will be read again; at most this many if `before` is None.
        is_planned: whether the move discards the plan of an unfinished claim.
    """

    partition: int
    before: int | None
    target: Committed
    skipped: int
    repeated: int
    is_planned: bool = False


class Offsets(msgspec.Struct, frozen=True):
    """A group's own offsets, whichever client committed them, and the copy that this pipeline keeps."""

    own: dict[int, Committed]
    kept: dict[int, Committed]


class Moves(msgspec.Struct, frozen=True):
    """The moves of a group on its topic. `seen` are its offsets when the moves were computed."""

    topic: str
    topic_id: str
    group: str
    seen: Offsets
    moves: list[Move]

    @property
    def skipped(self) -> int:
        return sum(move.skipped for move in self.moves)

    @property
    def repeated(self) -> int:
        return sum(move.repeated for move in self.moves)

    @property
    def discarded_plans(self) -> int:
        return sum(move.is_planned for move in self.moves)

    @property
    def is_certain(self) -> bool:
        """Whether the group's position was known on every partition."""
        return all(move.before is not None for move in self.moves)


def preview_moves(
    config: Config, topic: str, group: str, to: str, *, topic_ids: TopicIds | None, progress: Progress = lambda *_: None
) -> Moves:
    """Count, message by message, what setting the offsets would skip or repeat. Changes nothing.

    Args:
        to: kept, beginning, end, or an RFC 3339 time for the first message at or after it, by Kafka's timestamps.
        topic_ids: None for a group whose topic ids are not stored.
        progress: shows the progress of the count.

    Raises:
        ConfigurationError: `to` is invalid.
        OffsetsError: the offsets have no copy.
        ServiceUnavailableError: an open transaction hides messages after the end.
    """
    moment = _parse_moment(to)
    with translate_broker_errors(config, f"reading {topic}"), open_group_reader(config, topic, group) as reader:
        topic_id = read_topic_id(config, topic)
        seen = _read(reader)
        within = read_bounds(config, reader.consumer, topic, list(seen.own), settle_s=SETTLE_S)
        if to == "end" and (held := list_held_back(topic, within)):
            raise ServiceUnavailableError(
                f"An open transaction holds back messages that `end` would skip: {'; '.join(map(str, held))}. "
                "Nothing was changed. Try again when it has ended."
            )
        before = _find_positions(seen, within, topic_id, topic_ids.read(group, topic) if topic_ids else None)
        targets = _find_targets(reader, seen, within, to, moment)
        moves = []
        for number, (partition, target) in enumerate(targets.items(), start=1):
            plan = None if to == "kept" else seen.kept[partition].decode_plan(dict)
            was = before[partition]
            # Messages up to the end of the plan may already be written.
            done = max(was, plan.get("end", was)) if plan and was is not None else was
            skipped, repeated = _count(reader, partition, (was, done), target.offset, within[partition])
            moves.append(Move(partition, was, target, skipped, repeated, plan is not None))
            progress(f"counting {topic}", number, len(targets))
    return Moves(topic, topic_id, group, seen, moves)


def set_offsets(config: Config, wanted: Moves, topic_ids: TopicIds | None) -> None:
    """Commit the targets for the group and for its copy, and store the topic's id.

    Raises:
        OffsetsError: the topic was recreated, or the group has moved since `preview_moves`; nothing was committed.
        ServiceUnavailableError: a broker is down; it is safe to try again.
    """
    with open_group_writer(config, wanted.group, wanted.topic, 1) as writer:
        if writer.topic_id != wanted.topic_id or _read(writer.reader) != wanted.seen:
            raise OffsetsError(
                f"{wanted.topic} was recreated, or group {wanted.group} has moved, since these messages were counted. "
                "Nothing was committed. Pause the DAG, end its run, and run the command again."
            )
        offsets = {it.partition: it.target.offset for it in wanted.moves if it.target.offset is not None}
        plans = {it.partition: plan for it in wanted.moves if (plan := it.target.decode_plan(msgspec.Raw)) is not None}
        with writer.transaction(offsets, {it: bytes(plan) for it, plan in plans.items()}):
            pass
    if topic_ids is not None:
        # After the commit: if the command is killed in between, running it again repairs the file.
        topic_ids.remember(wanted.group, wanted.topic, wanted.topic_id)


def _read(reader: GroupReader) -> Offsets:
    return Offsets(reader.read_unchecked(), reader.read_kept())


def _parse_moment(to: str) -> datetime | None:
    if to in ("kept", "beginning", "end"):
        return None
    try:
        moment = datetime.fromisoformat(to)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f"TO={to!r} is invalid: use kept, beginning, end, or a time with an offset, for example "
            "2026-01-05T08:00:00Z."
        )
    return moment


def _find_positions(
    seen: Offsets, within: dict[int, Bounds], topic_id: str, remembered: str | None
) -> dict[int, int | None]:
    """Where this pipeline was, from the copy, or from the group itself if its offsets have no copy."""
    known = seen.kept
    if all(it.offset is None for it in known.values()):
        if remembered not in (None, topic_id):  # recreated: the group has read nothing of this topic
            return {it: found.low for it, found in within.items()}
        if remembered is None or is_ours(seen.own, topic_id):
            known = seen.own
    if all(it.offset is None for it in known.values()):
        return dict.fromkeys(within)
    # If only some partitions have an offset, the others are new.
    return {it: found.low if known[it].offset is None else known[it].offset for it, found in within.items()}


def _find_targets(
    reader: GroupReader, seen: Offsets, within: dict[int, Bounds], to: str, moment: datetime | None
) -> dict[int, Committed]:
    if to == "kept":
        if all(found.offset is None for found in seen.kept.values()):
            raise OffsetsError(
                f"There is no copy of the offsets of group {reader.group} on {reader.topic}. Nothing was changed. See "
                'docs/runbook_kafka.md, "Setting offsets", for the other values of TO.'
            )
        kept = seen.kept
        return {it: kept[it] if kept[it].offset is not None else Committed(found.low) for it, found in within.items()}
    if to == "beginning":
        return {it: Committed(found.low) for it, found in within.items()}
    if moment is None:
        return {it: Committed(found.end) for it, found in within.items()}
    asked = [TopicPartition(reader.topic, it, int(moment.timestamp() * 1000)) for it in within]
    answers = reader.consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
    # A negative offset means that all messages are older.
    return {it.partition: Committed(it.offset if it.offset >= 0 else within[it.partition].end) for it in answers}


def _count(
    reader: GroupReader,
    partition: int,
    was_and_done: tuple[int | None, int | None],
    target: int | None,
    within: Bounds,
) -> tuple[int, int]:
    """The number of messages that are skipped and that are repeated."""
    was, done = was_and_done
    target = within.low if target is None else target
    return (
        _count_messages(
            reader, partition, within.low if was is None else max(was, within.low), min(target, within.end)
        ),
        _count_messages(
            reader, partition, max(target, within.low), within.end if done is None else min(done, within.end)
        ),
    )


def _count_messages(reader: GroupReader, partition: int, start: int, end: int) -> int:
    return sum(map(len, scan(reader.consumer, reader.topic, [Claim(partition, start, end)])))
