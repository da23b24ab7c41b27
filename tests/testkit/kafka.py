"""Send messages, and read what a topic holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.testkit.wait import DEADLINE_S, until

Config = Mapping[str, Any]


Headers = list[tuple[str, bytes | None]]


class Record(NamedTuple):
    """A message as a topic holds it."""

    key: bytes | None
    value: bytes | None
    headers: Headers | None
    partition: int
    offset: int

    @property
    def error(self) -> dict[str, str]:
        """The KIP-298 headers by name without the prefix."""
        prefix = "__connect.errors."
        return {
            name.removeprefix(prefix): (value or b"").decode()
            for name, value in self.headers or []
            if name.startswith(prefix)
        }


class Raw(NamedTuple):
    """A message to send; the key decides the partition if it is −1."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers | None = None
    partition: int = -1


def produce(config: Config, topic: str, raws: Iterable[Raw | bytes | None]) -> None:
    """Send messages and wait until all are acknowledged."""
    producer = Producer({**config, "partitioner": "murmur2_random", "message.max.bytes": 2 * 2**20, "linger.ms": 1})
    send(producer, topic, raws)
    assert producer.flush(DEADLINE_S) == 0


def send(producer: Producer, topic: str, raws: Iterable[Raw | bytes | None]) -> None:
    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            raise KafkaException(error)

    for raw in raws:
        value, key, headers, partition = raw if isinstance(raw, Raw) else Raw(raw)
        producer.produce(topic, value, key, partition=partition, headers=headers or [], on_delivery=delivered)
        producer.poll(0)


def transactional(config: Config, name: str) -> Producer:
    """A producer with an open transaction."""
    producer = Producer({**config, "transactional.id": name, "transaction.timeout.ms": 60_000})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    return producer


def aborted(config: Config, topic: str, raws: Sequence[Raw | bytes | None]) -> None:
    """Send messages in a transaction and abort it: they have offsets, but readers must not see them."""
    producer = transactional(config, f"aborted-{uuid4()}")
    send(producer, topic, raws)
    assert producer.flush(DEADLINE_S) == 0
    producer.abort_transaction(DEADLINE_S)
    settle(config, topic)


def settle(config: Config, topic: str) -> None:
    """Wait until no transaction is open on a topic: a commit or abort returns before its markers are written."""
    admin = AdminClient({**config, "log_level": 2})
    partitions = admin.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
    latest = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in partitions}

    def ends(isolation: IsolationLevel) -> list[int]:
        answers = admin.list_offsets(latest, isolation_level=isolation, request_timeout=DEADLINE_S)
        return [answer.result(DEADLINE_S).offset for answer in answers.values()]

    until(
        lambda: ends(IsolationLevel.READ_COMMITTED) == ends(IsolationLevel.READ_UNCOMMITTED),
        f"the end of all transactions on {topic}",
    )


def read_all(config: Config, topic: str) -> list[Record]:
    """All messages of a topic, by partition and offset, once no transaction is open on it."""
    settle(config, topic)
    return read_visible(config, topic)


def read_visible(config: Config, topic: str) -> list[Record]:
    """The messages of a topic before the first open transaction of each partition, by partition and offset."""
    consumer = Consumer(
        {
            **config,
            "group.id": f"reader-{uuid4()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        left = set(consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions)
        lows = {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=DEADLINE_S)[0]
            for partition in left
        }
        consumer.assign([TopicPartition(topic, partition, low) for partition, low in lows.items()])
        records = []
        deadline = time.monotonic() + DEADLINE_S
        while left:
            assert time.monotonic() < deadline, f"partitions {left} of {topic} did not end"
            for message in consumer.consume(10_000, timeout=0.1):
                error = message.error()
                if error is None:
                    records.append(
                        Record(message.key(), message.value(), message.headers(), message.partition(), message.offset())
                    )
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def commit(config: Config, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Commit offsets of a group, as any Kafka client can."""
    consumer = Consumer({**config, "group.id": group, "enable.auto.commit": False})
    try:
        consumer.commit(
            offsets=[TopicPartition(topic, partition, offset) for partition, offset in offsets.items()],
            asynchronous=False,
        )
    finally:
        consumer.close()


def delete_all_records(config: Config, topic: str, partitions: int = 6) -> None:
    """Delete all messages, as retention does."""
    admin = AdminClient(config)
    for answer in admin.delete_records(
        [TopicPartition(topic, partition, -1) for partition in range(partitions)]
    ).values():
        answer.result(DEADLINE_S)


def java_partition(key: bytes, partitions: int) -> int:
    """Where Java's default partitioner puts a key: Utils.toPositive(Utils.murmur2(key)) % partitions.

    Source: org.apache.kafka.common.utils.Utils.murmur2, after Austin Appleby's MurmurHash2.
    """
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions
