"""Offsets: the bounds of partitions, and the committed offsets of groups with a check who committed them.

Any client can commit with a group's id. So each commit of this pipeline also goes to a second group, in the same
transaction. If the two differ, another client has committed.
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
from jobs.kafka.client import (
    CONNECTED,
    QUIET,
    REQUEST_TIMEOUT_S,
    Config,
    Isolation,
    open_consumer,
    translate_broker_errors,
)
from jobs.vertical import Engine

T = TypeVar("T")

# In the metadata of each offset: the engine that owns the group.
_WRITERS: dict[Engine, str] = {"python": "datastream", "spark": "datastream-spark"}
_NONE = msgspec.Raw(b"null")
# Kafka acknowledges a commit before readers see it: the transaction markers take milliseconds, a second under load.
SETTLE_S = 5.0
# A group has no coordinator for a moment on a new broker, and while the coordinator moves.
_ELECTING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
# A partition has no leader for a moment when it is new, and while its leader moves.
_MOVING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}


class Bounds(msgspec.Struct, frozen=True):
    """The offsets of a partition, from `low` up to `high`, the high watermark.

    Readers see only those before `end`, the last stable offset. An open transaction holds back the rest.
    """

    low: int
    end: int
    high: int

    @property
    def held(self) -> int:
        """The number of offsets that open transactions hold back."""
        return self.high - self.end


class HeldBack(msgspec.Struct, frozen=True):
    """`count` offsets of a partition, from `first` on, that an open transaction holds back."""

    topic: str
    partition: int
    first: int
    count: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]: {self.count:,} offsets from {self.first} on"


class OffsetMetadata(msgspec.Struct, frozen=True):
    """The JSON metadata of each offset that this pipeline commits.

    Attributes:
        writer: names the engine (`_WRITERS`).
        topic_id: id of the topic that the offset belongs to.
        plan: the plan of a claim that is not done yet, or null.
    """

    v: Literal[1]
    writer: str
    topic_id: str
    plan: msgspec.Raw = _NONE


class Committed(msgspec.Struct, frozen=True):
    """The committed offset of a group on one partition; the offset is None if the group never committed."""

    offset: int | None
    metadata: str = ""

    @property
    def topic_id(self) -> str | None:
        """The topic id in the metadata; None if this version did not write it."""
        try:
            return msgspec.json.decode(self.metadata, type=OffsetMetadata).topic_id
        except msgspec.MsgspecError:
            return None

    @property
    def engine(self) -> Engine:
        """The engine that committed the offset. Versions before 1 had only Python."""
        try:
            writer = msgspec.json.decode(self.metadata, type=OffsetMetadata).writer
        except msgspec.MsgspecError:
            return "python"
        return "spark" if writer == _WRITERS["spark"] else "python"

    def decode_plan(self, kind: type[T]) -> T | None:
        """The plan in the metadata; None without a plan.

        Raises:
            OffsetsError: another tool has written the metadata.
        """
        if not self.metadata:
            return None
        try:
            # Versions before 1 wrote only the plan.
            is_bare = "v" not in json.loads(self.metadata)
            text = self.metadata if is_bare else msgspec.json.decode(self.metadata, type=OffsetMetadata).plan
            return None if text == _NONE else msgspec.json.decode(text, type=kind)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise OffsetsError(
                f"Another tool wrote the metadata of a committed offset ({error}): {self.metadata!r:.200}. "
                'To set the offsets again, see docs/runbook_kafka.md, "Setting offsets".'
            ) from error


def encode_metadata(topic_id: str, plan: bytes | None, engine: Engine = "python") -> str:
    """The metadata of an offset to commit."""
    content = OffsetMetadata(1, _WRITERS[engine], topic_id, _NONE if plan is None else msgspec.Raw(plan))
    return msgspec.json.encode(content).decode()


def name_kept_group(group: str) -> str:
    """The group that keeps a copy of a group's offsets."""
    return f"{group}.kept"


def list_partitions(client: Consumer, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        ConfigurationError: the topic does not exist, or its name is invalid.
    """
    metadata = client.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        if metadata.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION):
            raise ConfigurationError(
                f"There is no topic {topic!r}: {metadata.error.str()}. Create it with `make topics`, or correct its "
                "name in .env or in Airflow's Variables."
            )
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)


def read_topic_id(config: Config, topic: str) -> str:
    """Read the id of a topic, which Kafka assigns when it creates the topic.

    Raises:
        KafkaException: the topic does not exist, or the broker is down.
    """
    admin = AdminClient({**QUIET, **CONNECTED, **config})  # must live until the answer arrives
    answers = admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
    return str(answers[topic].result().topic_id)


def read_bounds(
    config: Config, client: Consumer, topic: str, partitions: Sequence[int], *, settle_s: float = 0.0
) -> dict[int, Bounds]:
    """Read the bounds of partitions.

    Args:
        client: a consumer that reads committed messages only.
        settle_s: seconds to wait for the end of the transactions that are open now.
    """
    highs = read_high_watermarks(config, topic, partitions)
    until_stable = Retrying(
        retry=retry_if_result(lambda ends: any(ends[partition] < high for partition, high in highs.items())),
        stop=stop_after_delay(settle_s),
        wait=wait_fixed(0.02),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    ends: dict[int, int] = until_stable(_read_edges, client, topic, partitions, OFFSET_END)
    lows = _read_edges(client, topic, partitions, OFFSET_BEGINNING)
    return {
        partition: Bounds(lows[partition], ends[partition], max(highs[partition], ends[partition]))
        for partition in partitions
    }


def read_high_watermarks(config: Config, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """The ends of partitions, including messages of open transactions."""
    with open_consumer(config, "watermarks", isolation="read_uncommitted") as client:
        return _read_edges(client, topic, partitions, OFFSET_END)


def _read_edges(client: Consumer, topic: str, partitions: Sequence[int], edge: int) -> dict[int, int]:
    """The first or last offsets of partitions that the client's isolation level allows to read.

    Kafka's ListOffsets request accepts -2 (beginning) and -1 (end) in place of a time.
    """
    requests = [TopicPartition(topic, partition, edge) for partition in partitions]

    def ask() -> dict[int, int]:
        answers = client.offsets_for_times(requests, timeout=REQUEST_TIMEOUT_S)
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        return {answer.partition: answer.offset for answer in answers}

    return _until(_MOVING)(ask)


def _until(passing: set[int]) -> Retrying:
    """Tries again while Kafka answers with one of these codes, for as long as a request may take."""
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and error.args[0].code() in passing),
        stop=stop_after_delay(REQUEST_TIMEOUT_S),
        wait=wait_fixed(0.2),
        reraise=True,
    )


def list_held_back(topic: str, bounds: Mapping[int, Bounds]) -> list[HeldBack]:
    """The offsets of a topic that open transactions hold back."""
    return [HeldBack(topic, partition, bound.end, bound.held) for partition, bound in bounds.items() if bound.held]


def read_committed_offsets(client: Consumer, topic: str, partitions: Sequence[int]) -> dict[int, Committed]:
    """The committed offsets of the consumer's group, by partition. Waits for an open transaction of the group."""
    answers = _until(_ELECTING)(
        client.committed, [TopicPartition(topic, partition) for partition in partitions], timeout=REQUEST_TIMEOUT_S
    )
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {
        answer.partition: Committed(None if answer.offset == OFFSET_INVALID else answer.offset, answer.metadata or "")
        for answer in answers
    }


class GroupReader:
    """Reads a group's committed offsets on its topic, and the copy of them."""

    def __init__(
        self, topic: str, group: str, consumer: Consumer, kept: Consumer, partitions: Sequence[int] = ()
    ) -> None:
        self.topic = topic
        self.group = group
        self.consumer = consumer
        self._kept = kept
        self._only = list(partitions)

    @property
    def writers(self) -> tuple[Consumer, Consumer]:
        """The consumers of both groups, for which each offset is committed."""
        return self.consumer, self._kept

    @cached_property
    def partitions(self) -> list[int]:
        """The topic's partitions when they were first read, or those that the reader is limited to.

        Raises:
            ConfigurationError: the topic does not exist.
        """
        return self._only or list_partitions(self.consumer, self.topic)

    def read_kept(self) -> dict[int, Committed]:
        """The copy: the offsets that this pipeline has committed."""
        return read_committed_offsets(self._kept, self.topic, self.partitions)

    def read_unchecked(self) -> dict[int, Committed]:
        """The offsets of the group, whichever client committed them."""
        return read_committed_offsets(self.consumer, self.topic, self.partitions)

    def read_committed(self) -> dict[int, Committed]:
        """The offsets of the group, checked against the copy.

        Raises:
            OffsetsError: another client committed with this group id.
        """
        return self._read_equal(is_copy_expected=True)

    def observe(self) -> dict[int, Committed]:
        """As `read_committed`, but offsets without a copy are accepted. For readers that commit nothing."""
        return self._read_equal(is_copy_expected=False)

    def _read_equal(self, *, is_copy_expected: bool) -> dict[int, Committed]:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            kept, own = self.read_kept(), self.read_unchecked()
            if own == kept or (not is_copy_expected and is_without_copy(own, kept)):
                return own
            # A commit of this pipeline between the two reads makes them differ. It also changes the copy.
            if self.read_kept() == kept or time.monotonic() > deadline:
                check_kept(self.topic, self.group, own, kept)


@contextmanager
def open_group_reader(
    config: Config,
    topic: str,
    group: str,
    *,
    isolation: Isolation = "read_committed",
    partitions: Sequence[int] = (),
) -> Iterator[GroupReader]:
    """A reader of a group's offsets. Its consumer can also read the topic.

    By default it waits for open transactions of the group. With read_uncommitted it returns the offsets before them.

    Args:
        partitions: limits the reader to the offsets of these partitions.
    """
    kept = name_kept_group(group)
    with (
        open_consumer(config, group, isolation=isolation) as own,
        open_consumer(config, kept, isolation=isolation) as copy,
    ):
        yield GroupReader(topic, group, own, copy, partitions)


def read_current_offsets(config: Config, topic: str, group: str) -> dict[int, Committed]:
    """The committed offsets of a group. Does not wait for its open transaction, which may take minutes.

    Raises:
        OffsetsError: another client committed with this group id.
    """
    try:
        with open_group_reader(config, topic, group, isolation="read_uncommitted") as reader:
            return reader.observe()
    except OffsetsError:
        # The markers of one commit may be written at different times.
        with open_group_reader(config, topic, group) as reader:
            return reader.observe()


def read_group_offsets(config: Config, topic: str, group: str) -> dict[int, int | None]:
    """The committed offsets of a group, by partition; None if it never committed.

    Raises:
        OffsetsError: another client committed with this group id.
    """
    with (
        translate_broker_errors(config, f"reading the offsets of {group}"),
        open_group_reader(config, topic, group) as reader,
    ):
        return {partition: committed.offset for partition, committed in reader.observe().items()}


def is_without_copy(own: Mapping[int, Committed], kept: Mapping[int, Committed]) -> bool:
    """Whether a group has offsets but no copy: an earlier version or another client committed, or it was deleted."""
    has_copy = any(committed.offset is not None for committed in kept.values())
    return not has_copy and any(committed.offset is not None for committed in own.values())


def check_kept(topic: str, group: str, own: Mapping[int, Committed], kept: Mapping[int, Committed]) -> None:
    """Raise OffsetsError if a group's offsets are not those that this pipeline has committed."""
    for partition, committed in own.items():
        ours = kept[partition]
        if committed == ours:
            continue
        if committed.offset == ours.offset:
            difference = f"is at {ours.offset}, but its metadata is not what this pipeline committed"
        else:
            difference = f"is at {_describe(committed.offset)}, but this pipeline committed {_describe(ours.offset)}"
        is_gone = committed.offset is None
        cause = "they were deleted" if is_gone else "another client commits with this group id; stop it first"
        if all(committed.offset is None for committed in kept.values()):
            remedy = f"To start with the first message: `make offsets GROUP={group} TO=beginning`"
        else:
            remedy = f"To continue where this pipeline was: `make offsets GROUP={group} TO=kept`"
        raise OffsetsError(
            f"{topic}[{partition}]: group {group} {difference} (group {name_kept_group(group)} keeps a copy): {cause}. "
            f"Nothing was done. {remedy}."
        )


def _describe(offset: int | None) -> str:
    return "no offset" if offset is None else str(offset)
