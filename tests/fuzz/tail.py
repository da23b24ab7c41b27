"""Reads the new messages of a topic, so that thousands of examples can share one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer

from tests.testkit.kafka import Config, Record, open_reader, read_to_end, settle
from tests.testkit.wait import DEADLINE_S


class Tail:
    """The messages of a topic that it has not returned before."""

    def __init__(self, consumer: Consumer, config: Config, topic: str) -> None:
        self._consumer, self._config, self._topic = consumer, config, topic
        partitions = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
        self._next = dict.fromkeys(partitions, 0)

    def new(self) -> list[Record]:
        """By partition and offset, once no transaction is open."""
        settle(self._config, self._topic)
        records, self._next = read_to_end(self._consumer, self._topic, self._next)
        return records


@contextmanager
def tail(config: Config, topic: str) -> Iterator[Tail]:
    with open_reader(config) as consumer:
        yield Tail(consumer, config, topic)
