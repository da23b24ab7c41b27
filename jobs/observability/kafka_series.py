"""Series of Kafka's topics and consumer groups, with the names of danielqsj/kafka_exporter, and our own.

https://github.com/danielqsj/kafka_exporter#metrics has the names. As there, the lag of a partition without a commit is
-1, and a group has series for topics on which it has committed. Copies of offsets (groups ending with `.kept`) are left
out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from threading import Lock
from typing import Any, Literal, NamedTuple

from confluent_kafka import (
    OFFSET_INVALID,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.kafka.client import CONNECTED, QUIET, Config, open_consumer
from jobs.kafka.offsets import name_kept_group

Place = tuple[str, int]  # topic and partition
Offsets = dict[Place, int]
Edge = Literal["first", "last stable", "high watermark"]

TIMEOUT_S = 4.0
_MESSAGE_WITHIN_S = 1.0
_KEPT = name_kept_group("")


class _First(NamedTuple):
    """When the first message from an offset on was written; None if only transaction markers follow up to `high`."""

    written_at: float | None
    high: int


class KafkaReader:
    """Reads the series of one cluster.

    Args:
        own_only: leave out the series that kafka_exporter serves.
    """

    def __init__(self, config: Config, *, own_only: bool = False) -> None:
        self._config = config
        self._own_only = own_only
        self._admin = AdminClient({**QUIET, **CONNECTED, **config})
        # By partition and committed offset.
        self._first: dict[tuple[Place, int], _First] = {}
        # Two scrapes may overlap.
        self._lock = Lock()

    def read(self) -> list[Metric]:
        """The series now.

        Raises:
            KafkaException: the cluster does not answer within TIMEOUT_S seconds.
        """
        with self._lock:
            return list(self._read())

    def _read(self) -> Iterator[Metric]:
        cluster = self._admin.list_topics(timeout=TIMEOUT_S)
        topics = {name: topic for name, topic in cluster.topics.items() if not name.startswith("__")}
        places = [(name, number) for name, topic in topics.items() for number in topic.partitions]
        high = self._read_edges(places, "high watermark")
        stable = self._read_edges(places, "last stable")
        committed = self._read_committed()
        yield _by_place(
            "datastream_topic_partition_held_back",
            "Offsets that open transactions hold back from readers",
            {place: max(0, high[place] - stable[place]) for place in high.keys() & stable.keys()},
        )
        yield _by_place(
            "datastream_topic_partition_last_stable_offset", "Where readers of committed messages end", stable
        )
        yield self._read_lag_seconds(high, committed)
        if not self._own_only:
            yield from _topics(cluster, topics)
            yield _by_place("kafka_topic_partition_oldest_offset", "First offset", self._read_edges(places, "first"))
            yield _by_place("kafka_topic_partition_current_offset", "High watermark", high)
            yield from _groups(high, committed)
            yield self._read_members(list(committed))

    def _read_edges(self, places: list[Place], edge: Edge) -> Offsets:
        """The first or last offsets of partitions, without those that have no leader."""
        spec = OffsetSpec.earliest() if edge == "first" else OffsetSpec.latest()
        isolation = IsolationLevel.READ_COMMITTED if edge == "last stable" else IsolationLevel.READ_UNCOMMITTED
        if not places:
            return {}
        answers = self._admin.list_offsets(
            {TopicPartition(*place): spec for place in places}, isolation_level=isolation, request_timeout=TIMEOUT_S
        )
        return {
            (partition.topic, partition.partition): answer.result(TIMEOUT_S).offset
            for partition, answer in answers.items()
            if answer.exception(TIMEOUT_S) is None
        }

    def _read_committed(self) -> dict[str, Offsets]:
        """The committed offsets of each group."""
        listed = self._admin.list_consumer_groups(request_timeout=TIMEOUT_S).result(TIMEOUT_S)
        names = [group.group_id for group in listed.valid if not group.group_id.endswith(_KEPT)]
        answers: dict[str, Future[Any]] = {}
        for name in names:
            request = ConsumerGroupTopicPartitions(name)
            answers |= self._admin.list_consumer_group_offsets([request], request_timeout=TIMEOUT_S)
        # A group may be deleted meanwhile, or its coordinator may be moving.
        groups = {
            name: answer.result().topic_partitions
            for name, answer in answers.items()
            if answer.exception(TIMEOUT_S) is None
        }
        return {
            name: {
                (partition.topic, partition.partition): partition.offset
                for partition in partitions
                if partition.error is None and partition.offset != OFFSET_INVALID
            }
            for name, partitions in groups.items()
        }

    def _read_members(self, groups: list[str]) -> Metric:
        family = GaugeMetricFamily("kafka_consumergroup_members", "Members of the group", labels=["consumergroup"])
        answers = self._admin.describe_consumer_groups(groups, request_timeout=TIMEOUT_S) if groups else {}
        for name, answer in answers.items():
            if answer.exception(TIMEOUT_S) is None:
                family.add_metric([name], len(answer.result().members))
        return family

    def _read_lag_seconds(self, high: Offsets, committed: Mapping[str, Offsets]) -> Metric:
        """The age of the oldest message that a group has not passed, by group and topic; 0 without lag.

        A group and topic whose message cannot be read in time has no value.
        """
        family = GaugeMetricFamily(
            "datastream_consumergroup_lag_seconds",
            "Age of the oldest message that the group has not passed",
            labels=["consumergroup", "topic"],
        )
        now = time.time()
        unread = {
            (place, offset)
            for offsets in committed.values()
            for place, offset in offsets.items()
            if high.get(place, 0) > offset
        }
        self._first = self._find_first(unread, high)
        for group, offsets in committed.items():
            for topic in {topic for topic, _ in offsets}:
                waiting = [it for it in offsets.items() if it[0][0] == topic and it in unread]
                if all(it in self._first for it in waiting):
                    written = [at for it in waiting if (at := self._first[it].written_at) is not None]
                    family.add_metric([group, topic], max(0.0, now - min(written, default=now)))
        return family

    def _find_first(self, unread: Collection[tuple[Place, int]], high: Offsets) -> dict[tuple[Place, int], _First]:
        """The first message from each offset on, without those that cannot be read in time.

        Messages of open transactions count: they are what a group waits for.
        """
        found = {
            key: first
            for key, first in self._first.items()
            if key in unread and (first.written_at is not None or first.high == high[key[0]])
        }
        missing = [key for key in unread if key not in found]
        if missing:
            with open_consumer(self._config, "exporter", isolation="read_uncommitted") as consumer:
                for place, offset in missing:
                    first = _read_first(consumer, place, offset, high[place])
                    if first is not None:
                        found[place, offset] = first
        return found


def _read_first(consumer: Consumer, place: Place, offset: int, high: int) -> _First | None:
    """The first message from an offset on; None if it cannot be read in time."""
    # An offset that retention has deleted: the first message that is left.
    low, _ = consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT_S)
    consumer.assign([TopicPartition(*place, max(low, offset))])
    message = consumer.poll(_MESSAGE_WITHIN_S)
    if message is None:
        return None
    if message.error() is not None:
        return _First(None, high) if message.error().code() == KafkaError._PARTITION_EOF else None
    kind, milliseconds = message.timestamp()
    return _First(None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000, high)


def _topics(cluster: Any, topics: Mapping[str, Any]) -> Iterator[Metric]:
    brokers = GaugeMetricFamily("kafka_brokers", "Brokers in the cluster")
    brokers.add_metric([], len(cluster.brokers))
    yield brokers
    partitions = {
        (name, number): partition for name, topic in topics.items() for number, partition in topic.partitions.items()
    }
    series: dict[str, tuple[str, Callable[[Any], float]]] = {
        "replicas": ("Replicas", lambda partition: len(partition.replicas)),
        "in_sync_replica": ("Replicas in sync", lambda partition: len(partition.isrs)),
        "leader": ("Broker that leads; -1: none", lambda partition: partition.leader),
        "under_replicated_partition": (
            "Whether replicas are not in sync",
            lambda partition: len(partition.isrs) < len(partition.replicas),
        ),
    }
    for name, (text, read) in series.items():
        values = {place: read(partition) for place, partition in partitions.items()}
        yield _by_place(f"kafka_topic_partition_{name}", text, values)


def _groups(high: Offsets, committed: Mapping[str, Offsets]) -> Iterator[Metric]:
    labels = ["consumergroup", "topic", "partition"]
    current = GaugeMetricFamily("kafka_consumergroup_current_offset", "Committed offset; -1: none", labels=labels)
    lag = GaugeMetricFamily(
        "kafka_consumergroup_lag", "High watermark minus committed offset; -1: no committed offset", labels=labels
    )
    partitions: dict[str, list[int]] = defaultdict(list)
    for topic, partition in high:
        partitions[topic].append(partition)
    for group, offsets in committed.items():
        for topic in {topic for topic, _ in offsets}:
            for partition in partitions[topic]:
                place = topic, partition
                offset = offsets.get(place)
                names = [group, topic, str(partition)]
                current.add_metric(names, -1 if offset is None else offset)
                lag.add_metric(names, -1 if offset is None else max(0, high[place] - offset))
    yield current
    yield lag


def _by_place(name: str, text: str, values: Mapping[Place, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["topic", "partition"])
    for (topic, partition), value in values.items():
        family.add_metric([topic, str(partition)], value)
    return family
