"""Series of Kafka's topics and consumer groups, with the names of danielqsj/kafka_exporter, and our own.

https://github.com/danielqsj/kafka_exporter#metrics has the names. As there, the lag of a partition without a commit is
-1, and a group has series for topics on which it has committed. Copies of offsets (groups ending with `.kept`) are left
out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from threading import Lock
from typing import Any, Literal, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    TIMESTAMP_NOT_AVAILABLE,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.kafka.client import CONNECTED, QUIET, Config, open_consumer
from jobs.kafka.offsets import name_kept_group

T = TypeVar("T")
Place = tuple[str, int]  # topic and partition
Offsets = dict[Place, int]
Edge = Literal["first", "last stable", "high watermark"]

TIMEOUT_S = 4.0
_MESSAGE_WITHIN_S = 1.0
_KEPT = name_kept_group("")


class KafkaReader:
    """Reads the series of one cluster.

    Args:
        own_only: leave out the series that kafka_exporter serves.
    """

    def __init__(self, config: Config, *, own_only: bool = False) -> None:
        self._config = config
        self._own_only = own_only
        self._admin = AdminClient({**QUIET, **CONNECTED, **config})
        # When a message was written, for the first unread one of each group and partition.
        self._written: dict[tuple[str, Place], tuple[int, float]] = {}
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
        listed = _result(self._admin.list_consumer_groups(request_timeout=TIMEOUT_S))
        names = [group.group_id for group in listed.valid if not group.group_id.endswith(_KEPT)]
        answers: dict[str, Future[Any]] = {}
        for name in names:
            request = ConsumerGroupTopicPartitions(name)
            answers |= self._admin.list_consumer_group_offsets([request], request_timeout=TIMEOUT_S)
        groups = {name: _result(answer).topic_partitions for name, answer in answers.items()}
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
            family.add_metric([name], len(_result(answer).members))
        return family

    def _read_lag_seconds(self, high: Offsets, committed: Mapping[str, Offsets]) -> Metric:
        """The age of the oldest message that a group has not passed, by group and topic; 0 without lag."""
        family = GaugeMetricFamily(
            "datastream_consumergroup_lag_seconds",
            "Age of the oldest message that the group has not passed",
            labels=["consumergroup", "topic"],
        )
        now = time.time()
        written: dict[tuple[str, Place], tuple[int, float]] = {}
        ages: dict[tuple[str, str], float] = {}
        for group, offsets in committed.items():
            for place, offset in offsets.items():
                name = group, place[0]
                ages.setdefault(name, 0.0)
                if place not in high or high[place] <= offset:
                    continue
                key = group, place
                known = self._written.get(key)
                at = known[1] if known and known[0] == offset else self._read_timestamp(place, offset)
                if at is None:
                    continue
                written[key] = offset, at
                ages[name] = max(ages[name], now - at)
        self._written = written
        for name, age in ages.items():
            family.add_metric(name, age)
        return family

    def _read_timestamp(self, place: Place, offset: int) -> float | None:
        """When the first message from an offset on was written; None if only transaction markers follow.

        Messages of open transactions count: they are what the group waits for.
        """
        with open_consumer(self._config, "exporter", isolation="read_uncommitted") as consumer:
            # An offset that retention has deleted: the first message that is left.
            low, _ = consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT_S)
            consumer.assign([TopicPartition(*place, max(low, offset))])
            message = consumer.poll(_MESSAGE_WITHIN_S)
            if message is None or message.error() is not None:
                return None
            kind, milliseconds = message.timestamp()
        return None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000


def _result(answer: Future[T]) -> T:
    return answer.result(TIMEOUT_S)


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
