"""The producer against a real broker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

import producer
from ride_faults import FAULTS

SCRIPT = Path(producer.__file__)


def produce(stack: Any, topic: str, *options: str) -> str:
    """Run the producer; returns its last line."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers, "RAW_TOPIC": topic},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def read(stack: Any, topic: str, count: int) -> list[Message]:
    """All messages of a topic; asserts that offsets and messages have the expected count."""
    consumer = Consumer({"bootstrap.servers": stack.bootstrap_servers, "group.id": "test-producer"})
    partitions = [TopicPartition(topic, number, 0) for number in consumer.list_topics(topic).topics[topic].partitions]
    assert sum(consumer.get_watermark_offsets(partition, timeout=10)[1] for partition in partitions) == count
    consumer.assign(partitions)
    messages: list[Message] = []
    while len(messages) < count:
        batch = consumer.consume(count - len(messages), timeout=20)
        assert batch, f"{len(messages)} of {count} messages arrived"
        messages += batch
    consumer.close()
    assert not any(message.error() for message in messages)
    return messages


def test_messages_arrive_with_keys_and_labels(stack: Any, topic_factory: Callable[[str], str]) -> None:
    topic = topic_factory("producer")
    options = ("--count=20000", "--rate=0", "--faulty=0.05", "--duplicates=0.02", "--seed=7", "--spread=2h")
    line = produce(stack, topic, *options)
    counts = re.match(r"sent 20000 \(faulty (\d+), duplicates (\d+)\), delivered 20000, failed 0, ", line)
    assert counts, line

    messages = read(stack, topic, 20_000)
    labels = Counter(
        value.decode() for message in messages for name, value in message.headers() or [] if name == "datastream.fault"
    )
    assert set(labels) == set(FAULTS)
    assert labels.total() == int(counts[1])
    good = [message for message in messages if not message.headers()]
    assert all(json.loads(message.value())["ride_id"].encode() == message.key() for message in good)
    assert len(good) - len({message.value() for message in good}) == int(counts[2])
    assert len({message.partition() for message in messages}) > 1


def test_the_same_seed_and_start_send_the_same_bytes(stack: Any, topic_factory: Callable[[str], str]) -> None:
    options = ("--count=500", "--rate=0", "--faulty=0.1", "--seed=7", "--spread=1d", "--since=2026-01-05T00:00:00Z")
    runs = []
    for _ in range(2):
        topic = topic_factory("producer")
        produce(stack, topic, *options)
        runs.append({(message.partition(), message.key(), message.value()) for message in read(stack, topic, 500)})
    assert runs[0] == runs[1]
