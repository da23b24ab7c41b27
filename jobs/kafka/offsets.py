"""Offsets: what a partition holds, what a group has committed, and whether it was this pipeline that committed it.

Any client can commit with a group's id. So each commit of ours also goes to a second group, in the same transaction:
where the two differ, somebody else has committed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal, TypeVar

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from tenacity import Retrying, retry_if_exception, retry_if_result, stop_after_delay, wait_fixed

from jobs.errors import ConfigurationError, OffsetsError
from jobs.kafka.client import CONNECTED, QUIET, REQUEST_TIMEOUT_S, Config, Isolation, broker_errors, consumer

T = TypeVar("T")

WRITER = "datastream"
_NONE = msgspec.Raw(b"null")
# Kafka answers a commit before readers see it. Its transaction markers take milliseconds, on a loaded machine a second.
SETTLE_S = 5.0
# A group has no coordinator for a moment: on a fresh broker, and after one moved.
_ELECTING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


class Bounds(msgspec.Struct, frozen=True):
    """What a partition holds: offsets from `low` up to `high`, the high watermark.

    Only those before `end`, the last stable offset, can be read: an open transaction holds the rest back.
    """

    low: int
    end: int
    high: int

    @property
    def held(self) -> int:
        """How many offsets are held back."""
        return self.high - self.end


class HeldBack(msgspec.Struct, frozen=True):
    """Offsets of a partition that an open transaction holds back: `count` from the offset `first` on."""

    topic: str
    partition: int
    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]: {self.count:,} offsets from {self.first} on"


class OffsetMetadata(msgspec.Struct, frozen=True):
    """The metadata of each offset that this pipeline commits, as JSON.

    `topic_id` is that of the topic that the offset belongs to. `plan` is how the next claim is to be worked on, until
    it is done, or null.
    """

    v: Literal[1]
    writer: str
    topic_id: str
    plan: msgspec.Raw = _NONE


class Committed(msgspec.Struct, frozen=True):
    """What a group has committed for one partition; offset is None where it never did."""

    offset: int | None
    metadata: str = ""

    @property
    def topic_id(self) -> str | None:
        """The id of the topic that this pipeline committed the offset for; None if it is not from this version."""
        try:
            return msgspec.json.decode(self.metadata, type=OffsetMetadata).topic_id
        except msgspec.MsgspecError:
            return None

    def plan(self, kind: type[T]) -> T | None:
        """The plan in the metadata; None if there is none.

        Raises:
            OffsetsError: another tool has written the metadata.
        """
        if not self.metadata:
            return None
        try:
            # Versions before 1 wrote the plan alone.
            is_bare = "v" not in json.loads(self.metadata)
            text = self.metadata if is_bare else msgspec.json.decode(self.metadata, type=OffsetMetadata).plan
            return None if text == _NONE else msgspec.json.decode(text, type=kind)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise OffsetsError(
                f"The metadata of a committed offset is not this pipeline's ({error}): {self.metadata!r:.200}. "
                'docs/runbook_kafka.md, "Setting offsets", says how to set the offsets again.'
            ) from error


def metadata_text(topic_id: str, plan: bytes | None) -> str:
    """The metadata of an offset to commit."""
    content = OffsetMetadata(1, WRITER, topic_id, _NONE if plan is None else msgspec.Raw(plan))
    return msgspec.json.encode(content).decode()


def kept_group(group: str) -> str:
    """The group that keeps a copy of a group's offsets."""
    return f"{group}.kept"


def partitions(client: Consumer, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        ConfigurationError: there is no such topic, or there cannot be one of that name.
    """
    metadata = client.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        if metadata.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION):
            raise ConfigurationError(
                f"There is no topic {topic!r}: {metadata.error.str()}. `make topics` creates what infra/kafka/topics "
                "declares; .env and Airflow's Variables give the names."
            )
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)


def read_topic_id(config: Config, topic: str) -> str:
    """The id that Kafka gave a topic when it was made, as its tools print it.

    Raises:
        KafkaException: there is no such topic, or the broker is away.
    """
    admin = AdminClient({**QUIET, **CONNECTED, **config})  # must live until the answer is there
    answers = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
    return str(answers[topic].result().topic_id)


def bounds(
    config: Config, client: Consumer, topic: str, asked: Sequence[int], *, settle_s: float = 0.0
) -> dict[int, Bounds]:
    """The bounds of partitions.

    Args:
        client: reads committed messages only.
        settle_s: seconds to wait until the transactions that are open now have ended.
    """
    highs = high_watermarks(config, topic, asked)
    until_stable = Retrying(
        retry=retry_if_result(lambda ends: any(ends[partition] < high for partition, high in highs.items())),
        stop=stop_after_delay(settle_s),
        wait=wait_fixed(0.02),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    ends: dict[int, int] = until_stable(_edges, client, topic, asked, OFFSET_END)
    lows = _edges(client, topic, asked, OFFSET_BEGINNING)
    return {it: Bounds(lows[it], ends[it], max(highs[it], ends[it])) for it in asked}


def high_watermarks(config: Config, topic: str, asked: Sequence[int]) -> dict[int, int]:
    """The ends of partitions, messages of open transactions included."""
    with consumer(config, "watermarks", isolation="read_uncommitted") as client:
        return _edges(client, topic, asked, OFFSET_END)


def _edges(client: Consumer, topic: str, asked: Sequence[int], edge: int) -> dict[int, int]:
    """The first or last offsets of partitions, as the client's isolation level has them.

    As for a time, Kafka's ListOffsets request takes -2 for the beginning and -1 for the end.
    """
    answers = client.offsets_for_times([TopicPartition(topic, it, edge) for it in asked], timeout=REQUEST_TIMEOUT_S)
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {answer.partition: answer.offset for answer in answers}


def held_back(topic: str, within: Mapping[int, Bounds]) -> list[HeldBack]:
    """What open transactions hold back on a topic."""
    return [HeldBack(topic, it, found.end, found.held) for it, found in within.items() if found.held]


def committed(client: Consumer, topic: str, asked: Sequence[int]) -> dict[int, Committed]:
    """What the consumer's group has committed, by partition; waits for an open transaction of the group."""
    until_coordinated = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and error.args[0].code() in _ELECTING),
        stop=stop_after_delay(REQUEST_TIMEOUT_S),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    answers = until_coordinated(
        client.committed, [TopicPartition(topic, it) for it in asked], timeout=REQUEST_TIMEOUT_S
    )
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {
        answer.partition: Committed(None if answer.offset == OFFSET_INVALID else answer.offset, answer.metadata or "")
        for answer in answers
    }


class GroupReader:
    """Reads a group's committed offsets on its topic together with the copy that is kept of them."""

    def __init__(self, topic: str, group: str, consumer: Consumer, kept: Consumer) -> None:
        self.topic = topic
        self.group = group
        self.consumer = consumer
        self._kept = kept

    @property
    def writers(self) -> tuple[Consumer, Consumer]:
        """The clients in whose groups each offset is committed."""
        return self.consumer, self._kept

    @cached_property
    def partitions(self) -> list[int]:
        """The topic's partitions when they were first asked for.

        Raises:
            ConfigurationError: there is no such topic.
        """
        return partitions(self.consumer, self.topic)

    def kept(self) -> dict[int, Committed]:
        """What this pipeline has committed."""
        return committed(self._kept, self.topic, self.partitions)

    def unchecked(self) -> dict[int, Committed]:
        """What the group has committed, whoever it was."""
        return committed(self.consumer, self.topic, self.partitions)

    def committed(self) -> dict[int, Committed]:
        """What the group has committed; each of its offsets has its copy.

        Raises:
            OffsetsError: somebody else has committed for the group.
        """
        return self._equal(is_copy_expected=True)

    def observed(self) -> dict[int, Committed]:
        """The same for readers that commit nothing: they take offsets without any copy as they are."""
        return self._equal(is_copy_expected=False)

    def _equal(self, *, is_copy_expected: bool) -> dict[int, Committed]:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            kept, own = self.kept(), self.unchecked()
            if own == kept or (not is_copy_expected and is_without_copy(own, kept)):
                return own
            # A commit of ours between the two reads makes them differ, and moves the copy.
            if self.kept() == kept or time.monotonic() > deadline:
                check_kept(self.topic, self.group, own, kept)


@contextmanager
def group_reader(
    config: Config, topic: str, group: str, *, isolation: Isolation = "read_committed"
) -> Iterator[GroupReader]:
    """A reader of a group's offsets, whose consumer reads the topic as well.

    By default it waits for open transactions of the group; with read_uncommitted it reads what was committed before.
    """
    kept = kept_group(group)
    with consumer(config, group, isolation=isolation) as own, consumer(config, kept, isolation=isolation) as copy:
        yield GroupReader(topic, group, own, copy)


def current_offsets(config: Config, topic: str, group: str) -> dict[int, Committed]:
    """What a group has committed so far, without waiting for its open transaction, which may take minutes.

    Raises:
        OffsetsError: somebody else has committed for the group.
    """
    try:
        with group_reader(config, topic, group, isolation="read_uncommitted") as reader:
            return reader.observed()
    except OffsetsError:
        # The markers of one commit may be written at different times.
        with group_reader(config, topic, group) as reader:
            return reader.observed()


def group_offsets(config: Config, topic: str, group: str) -> dict[int, int | None]:
    """The committed offsets of a group, by partition; None where it never committed.

    Raises:
        OffsetsError: somebody else has committed for the group.
    """
    with broker_errors(config, f"reading the offsets of {group}"), group_reader(config, topic, group) as reader:
        return {partition: found.offset for partition, found in reader.observed().items()}


def is_without_copy(own: Mapping[int, Committed], kept: Mapping[int, Committed]) -> bool:
    """Whether a group has offsets and no copy: of an earlier version, of somebody else, or the copy was deleted."""
    return all(found.offset is None for found in kept.values()) and any(it.offset is not None for it in own.values())


def check_kept(topic: str, group: str, own: Mapping[int, Committed], kept: Mapping[int, Committed]) -> None:
    """Raises OffsetsError if a group's offsets are not those that this pipeline has committed."""
    for partition, found in own.items():
        ours = kept[partition]
        if found == ours:
            continue
        if found.offset == ours.offset:
            difference = f"is at {ours.offset}, but not with the metadata that this pipeline committed"
        else:
            difference = f"is at {_text(found.offset)}, but this pipeline committed {_text(ours.offset)}"
        is_gone = found.offset is None
        cause = "they were deleted" if is_gone else "another client commits with this group id; stop it first"
        if all(it.offset is None for it in kept.values()):
            remedy = f"`make offsets GROUP={group} TO=beginning` starts with the first message"
        else:
            remedy = f"`make offsets GROUP={group} TO=kept` sets the group back to where this pipeline was"
        raise OffsetsError(
            f"{topic}[{partition}]: group {group} {difference} (group {kept_group(group)} keeps a copy): {cause}. "
            f"Nothing was done. {remedy}."
        )


def _text(offset: int | None) -> str:
    return "no offset" if offset is None else str(offset)
