"""Setting a group's offsets: by the copy that is kept of them, to an edge of the topic, or to a moment."""

from __future__ import annotations

from datetime import datetime

import msgspec
from confluent_kafka import TopicPartition

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, broker_errors
from jobs.kafka.offsets import SETTLE_S, Bounds, Committed, GroupReader, bounds, group_reader, held_back, read_topic_id
from jobs.kafka.ownership import is_ours
from jobs.kafka.scan import Claim, Progress, scan
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import group_writer


class Move(msgspec.Struct, frozen=True):
    """One partition: from where this pipeline was (None: nobody knows) to where it shall be.

    Going on from there, `skipped` messages are never read, and `repeated` ones a second time. Where nobody knows where
    the group was, both are what there may be at most. `is_planned`: a plan of what was under way is discarded.
    """

    partition: int
    before: int | None
    target: Committed
    skipped: int
    repeated: int
    is_planned: bool = False


class Offsets(msgspec.Struct, frozen=True):
    """A group's own offsets, whoever has committed them, and the copy that this pipeline keeps."""

    own: dict[int, Committed]
    kept: dict[int, Committed]


class Moves(msgspec.Struct, frozen=True):
    """What setting the offsets of a group on its topic, which has this id, would do; `seen` is where it was then."""

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
        """Whether it is known where the group was."""
        return all(move.before is not None for move in self.moves)


def look(
    config: Config, topic: str, group: str, to: str, *, topic_ids: TopicIds | None, progress: Progress = lambda *_: None
) -> Moves:
    """Count what setting the offsets would skip or repeat, message by message. Changes nothing.

    Args:
        to: kept, beginning, end, or a moment as RFC 3339: the first message at or after it, by Kafka's time stamps.
        topic_ids: None for a group whose topics are not remembered.
        progress: gets the name of what is read, how much of it is done and how much there is.

    Raises:
        ConfigurationError: `to` is none of these.
        OffsetsError: nothing is kept.
        ServiceUnavailableError: an open transaction hides messages behind the end.
    """
    moment = _moment(to)
    with broker_errors(config, f"reading {topic}"), group_reader(config, topic, group) as reader:
        topic_id = read_topic_id(config, topic)
        seen = _read(reader)
        within = bounds(config, reader.consumer, topic, list(seen.own), settle_s=SETTLE_S)
        if to == "end" and (held := held_back(topic, within)):
            raise ServiceUnavailableError(
                f"An open transaction holds messages back, which `end` would skip unread: {'; '.join(map(str, held))}. "
                "Nothing was changed. Try again when it has ended."
            )
        before = _positions(seen, within, topic_id, topic_ids.read(group, topic) if topic_ids else None)
        targets = _targets(reader, seen, within, to, moment)
        moves = []
        for number, (partition, target) in enumerate(targets.items(), start=1):
            plan = None if to == "kept" else seen.kept[partition].plan(dict)
            was = before[partition]
            # What was planned may be written already.
            done = max(was, plan.get("end", was)) if plan and was is not None else was
            skipped, repeated = _count(reader, partition, (was, done), target.offset, within[partition])
            moves.append(Move(partition, was, target, skipped, repeated, plan is not None))
            progress(f"counting {topic}", number, len(targets))
    return Moves(topic, topic_id, group, seen, moves)


def set_offsets(config: Config, wanted: Moves, topic_ids: TopicIds | None) -> None:
    """Commit the targets, for the group and for its copy, and remember the topic.

    Raises:
        OffsetsError: the topic was made again, or the group has moved since the look; nothing was committed.
        ServiceUnavailableError: a broker is away; doing it again is harmless.
    """
    with group_writer(config, wanted.group, wanted.topic, 1) as writer:
        if writer.topic_id != wanted.topic_id or _read(writer.reader) != wanted.seen:
            raise OffsetsError(
                f"{wanted.topic} was made again, or group {wanted.group} has moved, since these messages were counted. "
                "Nothing was committed. Pause the DAG, end its run, and do the same again."
            )
        offsets = {it.partition: it.target.offset for it in wanted.moves if it.target.offset is not None}
        plans = {it.partition: plan for it in wanted.moves if (plan := it.target.plan(msgspec.Raw)) is not None}
        with writer.transaction(offsets, {it: bytes(plan) for it, plan in plans.items()}):
            pass
    if topic_ids is not None:
        # After the commit: killed in between, the same command again sets it right.
        topic_ids.remember(wanted.group, wanted.topic, wanted.topic_id)


def _read(reader: GroupReader) -> Offsets:
    return Offsets(reader.unchecked(), reader.kept())


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
    seen: Offsets, within: dict[int, Bounds], topic_id: str, remembered: str | None
) -> dict[int, int | None]:
    """Where this pipeline was: by the copy, or by the group itself where its offsets have none."""
    known = seen.kept
    if all(it.offset is None for it in known.values()):
        if remembered not in (None, topic_id):  # it has read nothing of this topic
            return {it: found.low for it, found in within.items()}
        if remembered is None or is_ours(seen.own, topic_id):
            known = seen.own
    if all(it.offset is None for it in known.values()):
        return dict.fromkeys(within)
    # A partition without an offset beside others that have one is new.
    return {it: found.low if known[it].offset is None else known[it].offset for it, found in within.items()}


def _targets(
    reader: GroupReader, seen: Offsets, within: dict[int, Bounds], to: str, moment: datetime | None
) -> dict[int, Committed]:
    if to == "kept":
        if all(found.offset is None for found in seen.kept.values()):
            raise OffsetsError(
                f"No copy of the offsets of group {reader.group} on {reader.topic} is kept (any more). Nothing was "
                'changed. docs/runbook_kafka.md, "Setting offsets", says what else there is.'
            )
        kept = seen.kept
        return {it: kept[it] if kept[it].offset is not None else Committed(found.low) for it, found in within.items()}
    if to == "beginning":
        return {it: Committed(found.low) for it, found in within.items()}
    if moment is None:
        return {it: Committed(found.end) for it, found in within.items()}
    asked = [TopicPartition(reader.topic, it, int(moment.timestamp() * 1000)) for it in within]
    answers = reader.consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
    # A negative offset: all messages are older.
    return {it.partition: Committed(it.offset if it.offset >= 0 else within[it.partition].end) for it in answers}


def _count(
    reader: GroupReader,
    partition: int,
    was_and_done: tuple[int | None, int | None],
    target: int | None,
    within: Bounds,
) -> tuple[int, int]:
    """How many messages are skipped and repeated."""
    was, done = was_and_done
    target = within.low if target is None else target
    return (
        _messages(reader, partition, within.low if was is None else max(was, within.low), min(target, within.end)),
        _messages(reader, partition, max(target, within.low), within.end if done is None else min(done, within.end)),
    )


def _messages(reader: GroupReader, partition: int, start: int, end: int) -> int:
    return sum(map(len, scan(reader.consumer, reader.topic, [Claim(partition, start, end)])))
