"""A peer: a transactional relay that only copies messages, as fast as confluent-kafka can in one process."""

from __future__ import annotations

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from benchmarks.measured import measured
from benchmarks.route import Route

_BATCH = 20_000


def relay(route: Route) -> None:
    """Copy all messages of a topic, in one transaction per batch with the group's offsets."""
    config = {"bootstrap.servers": route.bootstrap_servers}
    consumer = Consumer(
        {
            **config,
            "group.id": route.target,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
            "fetch.queue.backoff.ms": 10,
            "fetch.message.max.bytes": 8 * 2**20,
        }
    )
    producer = Producer(
        {
            **config,
            "transactional.id": route.target,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    producer.init_transactions(30)
    partitions = consumer.list_topics(route.source, timeout=30).topics[route.source].partitions
    consumer.assign([TopicPartition(route.source, partition, OFFSET_BEGINNING) for partition in partitions])
    ended: set[int] = set()
    deadline = time.monotonic() + 600
    while len(ended) < len(partitions):
        if time.monotonic() > deadline:
            raise TimeoutError("the relay did not finish within 10 minutes")
        messages = []
        for message in consumer.consume(_BATCH, timeout=0.1):
            error = message.error()
            if error is None:
                messages.append({"key": message.key(), "value": message.value()})
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise KafkaException(error)
        if messages:
            producer.begin_transaction()
            queued = producer.produce_batch(route.target, messages)
            if queued != len(messages):
                raise BufferError(f"{len(messages) - queued} messages do not fit into the queue")
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
            )
            producer.commit_transaction(30)
    consumer.close()


if __name__ == "__main__":
    with measured():
        relay(Route.from_json(sys.argv[1]))
