"""What a system holds, counted by reading it: what the code under measurement says about itself does not count."""

from __future__ import annotations

from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from jobs.kafka.client import Config

_TIMEOUT_S = 30
_BATCH = 20_000


def messages_in(config: Config, topic: str) -> int:
    """How many committed messages a topic holds, read one by one."""
    consumer = Consumer(
        {
            **config,
            "group.id": f"count-{uuid4()}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
        }
    )
    try:
        left = set(consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        count = 0
        while left:
            messages = consumer.consume(_BATCH, timeout=_TIMEOUT_S)
            if not messages:
                raise TimeoutError(f"{topic}: nothing came for {_TIMEOUT_S} s, and partitions {left} have not ended")
            for message in messages:
                error = message.error()
                if error is None:
                    count += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
        return count
    finally:
        consumer.close()
