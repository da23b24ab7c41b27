"""The peer: a transactional relay that only copies messages, as fast as confluent-kafka does that in one process."""

from __future__ import annotations

import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

_BATCH = 20_000


def relay(bootstrap_servers: str, source: str, target: str, group: str) -> int:
    """Copy all messages of a topic, one transaction per batch with the group's offsets; how many it copied."""
    config = {"bootstrap.servers": bootstrap_servers}
    consumer = Consumer(
        {
            **config,
            "group.id": group,
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
            "transactional.id": group,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    producer.init_transactions(30)
    partitions = consumer.list_topics(source, timeout=30).topics[source].partitions
    consumer.assign([TopicPartition(source, partition, OFFSET_BEGINNING) for partition in partitions])
    ended: set[int] = set()
    copied = 0
    deadline = time.monotonic() + 600
    while len(ended) < len(partitions):
        if time.monotonic() > deadline:
            raise TimeoutError("the relay did not finish within 10 minutes")
        messages = []
        for message in consumer.consume(_BATCH, timeout=0.5):
            error = message.error()
            if error is None:
                messages.append({"key": message.key(), "value": message.value()})
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise KafkaException(error)
        if messages:
            producer.begin_transaction()
            queued = producer.produce_batch(target, messages)
            if queued != len(messages):
                raise BufferError(f"{len(messages) - queued} messages do not fit the queue")
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
            )
            producer.commit_transaction(30)
            copied += queued
    consumer.close()
    return copied
