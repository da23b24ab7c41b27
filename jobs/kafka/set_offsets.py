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
from jobs.vertical import Engine


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
    """The moves of a group on its topic.

    Attributes:
        seen: its offsets when the moves were computed.
        engine: what owns the group.
    """

    topic: str
    topic_id: str
    group: str
    seen: Offsets
    moves: list[Move]
    engine: Engine = "python"

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
    config: Config,
    topic: str,
    group: str,
    to: str,
    *,
    topic_ids: TopicIds | None,
    engine: Engine = "python",
    progress: Progress = lambda *_: None,
) -> Moves:
    """Count, message by message, what setting the offsets would skip or repeat. Changes nothing.

    Args:
        to: kept, beginning, end, or an RFC 3339 time for the first message at or after it, by Kafka's timestamps.
        topic_ids: None for a group whose topic ids are not stored.
        engine: what owns the group if it has no offsets.
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
        bounds = read_bounds(config, reader.consumer, topic, list(seen.own), settle_s=SETTLE_S)
        if to == "end" and (held := list_held_back(topic, bounds)):
            raise ServiceUnavailableError(
                f"An open transaction holds back messages that `end` would skip: {'; '.join(map(str, held))}. "
                "Nothing was changed. Try again when it has ended."
            )
        before = _find_positions(seen, bounds, topic_id, topic_ids.read(group, topic) if topic_ids else None)
        targets = _find_targets(reader, seen, bounds, to, moment)
        moves = []
        for number, (partition, target) in enumerate(targets.items(), start=1):
            plan = None if to == "kept" else seen.kept[partition].decode_plan(dict)
            position = before[partition]
            # Messages up to the end of the plan may already be written.
            written = max(position, plan.get("end", position)) if plan and position is not None else position
            skipped, repeated = _count(
                reader, partition, target.offset, bounds[partition], position=position, written=written
            )
            moves.append(Move(partition, position, target, skipped, repeated, plan is not None))
            progress(f"counting {topic}", number, len(targets))
    owners = {committed.engine for committed in seen.own.values() if committed.offset is not None} or {engine}
    return Moves(topic, topic_id, group, seen, moves, "spark" if "spark" in owners else "python")


def set_offsets(config: Config, wanted: Moves, topic_ids: TopicIds | None) -> None:
    """Commit the targets for the group and for its copy, and store the topic's id.

    The partitions of a group of Spark change one after the other.

    Raises:
        ConfigurationError: the group has another owner now.
        OffsetsError: the topic was recreated, or the group has moved since `preview_moves`; nothing was committed.
        ServiceUnavailableError: a broker is down; it is safe to try again.
    """
    # Python has one transactional id for all partitions.
    ids: list[int | None] = [None] if wanted.engine == "python" else [move.partition for move in wanted.moves]
    for partition in ids:
        with open_group_writer(config, wanted.group, wanted.topic, 1, partition=partition) as writer:
            now = _read(writer.reader)
            writer.check_engine(now.own)
            seen = Offsets(*({key: known[key] for key in now.own} for known in (wanted.seen.own, wanted.seen.kept)))
            if writer.topic_id != wanted.topic_id or now != seen:
                raise OffsetsError(
                    f"{wanted.topic} was recreated, or group {wanted.group} has moved, since these messages were "
                    "counted. Nothing was committed. Pause the DAG, end its run, and run the command again."
                )
            moves = [move for move in wanted.moves if partition in (None, move.partition)]
            offsets = {move.partition: move.target.offset for move in moves if move.target.offset is not None}
            decoded = {move.partition: move.target.decode_plan(msgspec.Raw) for move in moves}
            plans = {number: bytes(plan) for number, plan in decoded.items() if plan is not None}
            with writer.transaction(offsets, plans):
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
    seen: Offsets, bounds: dict[int, Bounds], topic_id: str, remembered: str | None
) -> dict[int, int | None]:
    """Where this pipeline was, from the copy, or from the group itself if its offsets have no copy."""
    known = seen.kept
    if not _has_offsets(known):
        if remembered not in (None, topic_id):  # recreated: the group has read nothing of this topic
            return {partition: bound.low for partition, bound in bounds.items()}
        if remembered is None or is_ours(seen.own, topic_id):
            known = seen.own
    if not _has_offsets(known):
        return dict.fromkeys(bounds)
    # If only some partitions have an offset, the others are new.
    return {
        partition: bound.low if known[partition].offset is None else known[partition].offset
        for partition, bound in bounds.items()
    }


def _has_offsets(offsets: dict[int, Committed]) -> bool:
    return any(committed.offset is not None for committed in offsets.values())


def _find_targets(
    reader: GroupReader, seen: Offsets, bounds: dict[int, Bounds], to: str, moment: datetime | None
) -> dict[int, Committed]:
    if to == "kept":
        if not _has_offsets(seen.kept):
            raise OffsetsError(
                f"There is no copy of the offsets of group {reader.group} on {reader.topic}. Nothing was changed. See "
                'docs/runbook_kafka.md, "Setting offsets", for the other values of TO.'
            )
        return {
            partition: Committed(bound.low) if seen.kept[partition].offset is None else seen.kept[partition]
            for partition, bound in bounds.items()
        }
    if to == "beginning":
        return {partition: Committed(bound.low) for partition, bound in bounds.items()}
    if moment is None:
        return {partition: Committed(bound.end) for partition, bound in bounds.items()}
    times = [TopicPartition(reader.topic, partition, int(moment.timestamp() * 1000)) for partition in bounds]
    answers = reader.consumer.offsets_for_times(times, timeout=REQUEST_TIMEOUT_S)
    # A negative offset means that all messages are older.
    return {
        answer.partition: Committed(answer.offset if answer.offset >= 0 else bounds[answer.partition].end)
        for answer in answers
    }


def _count(
    reader: GroupReader,
    partition: int,
    target: int | None,
    bounds: Bounds,
    *,
    position: int | None,
    written: int | None,
) -> tuple[int, int]:
    """Count the messages that are skipped and that are repeated.

    Args:
        position: the offset where this pipeline was.
        written: the end of the messages that it may have written.
    """
    target = bounds.low if target is None else target
    skipped_from = bounds.low if position is None else max(position, bounds.low)
    repeated_to = bounds.end if written is None else min(written, bounds.end)
    return (
        _count_messages(reader, partition, skipped_from, min(target, bounds.end)),
        _count_messages(reader, partition, max(target, bounds.low), repeated_to),
    )


def _count_messages(reader: GroupReader, partition: int, start: int, end: int) -> int:
    return sum(map(len, scan(reader.consumer, reader.topic, [Claim(partition, start, end)])))
