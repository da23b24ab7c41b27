"""The exporter's series say what the systems hold: a real Kafka and a real Elasticsearch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.metrics_core import Metric

from jobs.kafka.offsets import name_kept_group
from jobs.observability.elasticsearch_series import ElasticsearchReader
from jobs.observability.kafka_series import KafkaReader
from jobs.rides.vertical import TEMPLATE
from jobs.sinks.elasticsearch import create_index
from tests.testkit.stack import Stack
from tests.testkit.wait import until

Series = dict[tuple[str, ...], float]


@pytest.fixture
def reader(stack: Stack) -> KafkaReader:
    return KafkaReader(stack.kafka)


@pytest.fixture
def topic(topic_factory: Callable[..., str]) -> str:
    return topic_factory("result", partitions=2)  # raw topics have the broker's time stamps


@pytest.fixture
def send(stack: Stack, topic: str) -> Callable[..., None]:
    def call(partition: int, count: int, timestamp: float | None = None) -> None:
        producer = Producer(stack.kafka)
        for _ in range(count):
            at = {} if timestamp is None else {"timestamp": int(timestamp * 1000)}
            producer.produce(topic, b"message", partition=partition, **at)
        assert producer.flush(30) == 0

    return call


@pytest.fixture
def group(fresh_name: Callable[[str], str]) -> str:
    return fresh_name("reading")


@pytest.fixture
def commit(stack: Stack, topic: str) -> Callable[..., None]:
    def call(group: str, offsets: dict[int, int]) -> None:
        consumer = Consumer({**stack.kafka, "group.id": group, "enable.auto.commit": False})
        consumer.commit(offsets=[TopicPartition(topic, *item) for item in offsets.items()], asynchronous=False)
        consumer.close()

    return call


@pytest.fixture
def open_transaction(stack: Stack, topic: str, fresh_name: Callable[[str], str]) -> Iterator[tuple[Producer, str]]:
    producer = Producer({**stack.kafka, "transactional.id": fresh_name("open")})
    producer.init_transactions(30)
    producer.begin_transaction()
    yield producer, topic
    producer.abort_transaction(30)


def pick(metrics: Iterable[Metric], name: str, *labels: str, **where: str) -> Series:
    """The values of a series, by the values of these labels."""
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == name and sample.labels.items() >= where.items()
    }


def test_lag_by_partition(
    reader: KafkaReader, topic: str, send: Callable[..., None], commit: Callable[..., None], group: str
) -> None:
    send(0, 10)
    send(1, 3)
    commit(group, {0: 4})
    commit(name_kept_group(group), {0: 4})
    metrics = reader.read()
    own = {"consumergroup": group, "topic": topic}
    # As in kafka_exporter: -1 for a partition without a commit.
    assert pick(metrics, "kafka_consumergroup_lag", "partition", **own) == {("0",): 6, ("1",): -1}
    assert pick(metrics, "kafka_consumergroup_current_offset", "partition", **own) == {("0",): 4, ("1",): -1}
    assert pick(metrics, "kafka_consumergroup_members", **{"consumergroup": group}) == {(): 0}
    assert pick(metrics, "kafka_topic_partition_current_offset", "partition", topic=topic) == {("0",): 10, ("1",): 3}
    assert pick(metrics, "kafka_topic_partition_oldest_offset", "partition", topic=topic) == {("0",): 0, ("1",): 0}
    for name in ("replicas", "in_sync_replica"):
        assert pick(metrics, f"kafka_topic_partition_{name}", "partition", topic=topic) == {("0",): 1, ("1",): 1}
    assert pick(metrics, "kafka_topic_partition_under_replicated_partition", "topic", topic=topic) == {(topic,): 0}
    assert pick(metrics, "kafka_brokers") == {(): 1}
    groups = {labels[0] for labels in pick(metrics, "kafka_consumergroup_lag", "consumergroup")}
    assert group in groups
    assert not any(name.endswith(".kept") for name in groups)


def test_lag_in_seconds_is_the_age_of_the_oldest_unread_message(
    reader: KafkaReader, topic: str, send: Callable[..., None], commit: Callable[..., None], group: str
) -> None:
    now = time.time()
    send(0, 2, now - 900)
    send(0, 1, now - 600)
    send(1, 1, now - 60)

    def read_age() -> float:
        name = "datastream_consumergroup_lag_seconds"
        return pick(reader.read(), name, consumergroup=group, topic=topic)[()] - (time.time() - now)

    commit(group, {0: 0, 1: 0})
    assert read_age() == pytest.approx(900, abs=2)
    assert read_age() == pytest.approx(900, abs=2)
    commit(group, {0: 2})
    assert read_age() == pytest.approx(600, abs=2)
    commit(group, {0: 3})
    assert read_age() == pytest.approx(60, abs=2)
    commit(group, {1: 1})
    assert pick(reader.read(), "datastream_consumergroup_lag_seconds", consumergroup=group) == {(): 0}


def test_an_open_transaction_holds_messages_back(
    reader: KafkaReader,
    send: Callable[..., None],
    commit: Callable[..., None],
    open_transaction: tuple[Producer, str],
    group: str,
) -> None:
    producer, topic = open_transaction
    send(0, 2)
    producer.produce(topic, b"held", partition=0)
    assert producer.flush(30) == 0
    send(0, 3)
    commit(group, {0: 2})
    metrics = reader.read()
    held = pick(metrics, "datastream_topic_partition_held_back", "partition", topic=topic)
    assert held == {("0",): 4, ("1",): 0}
    stable = pick(metrics, "datastream_topic_partition_last_stable_offset", "partition", topic=topic)
    assert stable == {("0",): 2, ("1",): 0}
    assert pick(metrics, "kafka_consumergroup_lag", "partition", consumergroup=group) == {("0",): 4, ("1",): -1}
    # What it holds back counts as waiting.
    assert pick(metrics, "datastream_consumergroup_lag_seconds", consumergroup=group)[()] > 0


def test_own_series_only(stack: Stack, topic: str) -> None:
    names = {metric.name for metric in KafkaReader(stack.kafka, own_only=True).read()}
    assert names == {
        "datastream_topic_partition_held_back",
        "datastream_topic_partition_last_stable_offset",
        "datastream_consumergroup_lag_seconds",
    }


def test_elasticsearch(stack: Stack, index: str) -> None:
    create_index(stack.elasticsearch, index, TEMPLATE)
    reader = ElasticsearchReader(stack.elasticsearch)

    def read() -> dict[str, float]:
        samples = [sample for metric in reader.read() for sample in metric.samples]
        return {sample.name + sample.labels.get("color", ""): sample.value for sample in samples}

    before = read()
    stack.elasticsearch.index(index=index, id="1", document={"ride_id": "1"}, refresh=True)
    until(lambda: read()["elasticsearch_indices_docs"] == before["elasticsearch_indices_docs"] + 1, "one document")
    after = read()
    counter = "elasticsearch_indices_indexing_index_total"
    assert after[counter] == before[counter] + 1
    health = [after[f"elasticsearch_cluster_health_status{color}"] for color in ("green", "yellow", "red")]
    assert sum(health) == 1
    assert health[2] == 0
    assert 0 < after["elasticsearch_jvm_memory_used_bytes"] < after["elasticsearch_jvm_memory_max_bytes"]
    free, size = (after[f"elasticsearch_filesystem_data_{part}_bytes"] for part in ("available", "size"))
    assert 0 < free < size
