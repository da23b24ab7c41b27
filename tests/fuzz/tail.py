"""Reads the new messages of a topic, so that thousands of examples can share one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tests.testkit.kafka import Config, Headers, Record, settle
from tests.testkit.wait import DEADLINE_S


class Tail:
    """The messages of a topic that it has not returned before."""

    def __init__(self, consumer: Consumer, config: Config, topic: str) -> None:
        self._consumer = consumer
        self._config = config
        self._topic = topic
        partitions = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
        self._next = dict.fromkeys(partitions, 0)

    def new(self) -> list[Record]:
        """By partition and offset, once no transaction is open."""
        settle(self._config, self._topic)
        self._consumer.assign([TopicPartition(self._topic, *position) for position in self._next.items()])
        left = set(self._next)
        records: list[Record] = []
        deadline = time.monotonic() + DEADLINE_S
        while left:
            assert time.monotonic() < deadline, f"partitions {left} of {self._topic} did not end"
            for message in self._consumer.consume(10_000, timeout=0.05):
                error = message.error()
                if error is None:
                    records.append(
                        Record(message.key(), message.value(), _headers(message), message.partition(), message.offset())
                    )
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._next[message.partition()] = message.offset()
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
        self._consumer.unassign()
        return sorted(records, key=lambda record: (record.partition, record.offset))


def _headers(message: Message) -> Headers | None:
    """None if a key is not UTF-8, which the client cannot read (see `jobs.kafka.dead_letter.read_all_headers`)."""
    try:
        (headers,) = map(Message.headers, [message])
    except (SystemError, UnicodeDecodeError):
        return None
    return headers


@contextmanager
def tail(config: Config, topic: str) -> Iterator[Tail]:
    consumer = Consumer(
        {
            **config,
            "group.id": f"tail-{uuid4()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,
            "receive.message.max.bytes": 1_000_000_000,
        }
    )
    try:
        yield Tail(consumer, config, topic)
    finally:
        consumer.close()
