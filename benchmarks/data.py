"""Create topics and fill them with rides."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.layouts import rewrite_message
from benchmarks.stacks import TOPICS
from jobs.clients import make_kafka_config
from jobs.kafka import topics
from jobs.kafka.client import PARTITIONER, QUIET, Config, open_consumer
from jobs.kafka.offsets import list_partitions
from jobs.rides.vertical import RidesSettings
from jobs.settings import ROOT

_BATCH = 20_000
_TIMEOUT_S = 60


def create(config: Config, names: list[str], partition_count: int = 6) -> None:
    """Create topics with the declared settings of rides_dlq, which accepts any message of this project."""
    declared = next(
        topic for topic in topics.load_topics(TOPICS, RidesSettings.model_construct()) if topic.setting == "DLQ_TOPIC"
    )
    topics.apply(config, [msgspec.structs.replace(declared, name=name, partitions=partition_count) for name in names])


def drop(config: Config, names: list[str]) -> None:
    """Delete topics to free disk space."""
    if names:
        admin = AdminClient({**QUIET, **config})  # must live until the answers arrive
        for deleted in admin.delete_topics(names).values():
            deleted.result(_TIMEOUT_S)


def fill(settings: RidesSettings, rides: int, faulty: float) -> None:
    """Send the same rides to rides_raw at every run."""
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), "--rate", "0", "--seed", "1"]
    command += ["--count", str(rides), "--faulty", str(faulty)]
    command += ["--bootstrap-servers", settings.bootstrap_servers, "--topic", settings.raw_topic]
    subprocess.run(command, check=True)


def rewrite(settings: RidesSettings, target: str, layout: str) -> None:
    """Copy the messages of rides_raw to another topic, in another layout."""
    config = make_kafka_config(settings)
    create(config, [target])
    messages = (
        {"key": message.key(), "value": rewrite_message(message.value(), layout)}
        for batch in read_messages(config, settings.raw_topic)
        for message in batch
    )
    _send(config, target, messages)


def repeat(settings: RidesSettings, source: str, target: str, count: int) -> None:
    """Copy the messages of a topic to another one, repeatedly until it has `count`.

    They are shuffled, so that the first messages come from all partitions.
    """
    config = make_kafka_config(settings)
    messages = [
        {"key": message.key(), "value": message.value()} for batch in read_messages(config, source) for message in batch
    ]
    random.Random(1).shuffle(messages)
    _send(config, target, islice(cycle(messages), count))


def _send(config: Config, target: str, messages: Iterable[dict[str, bytes | None]]) -> None:
    producer = Producer(
        {
            **QUIET,
            **config,
            "partitioner": PARTITIONER,
            "compression.type": "lz4",
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 2 * _BATCH,
            "enable.idempotence": True,
        }
    )
    left = iter(messages)
    while batch := list(islice(left, _BATCH)):
        queued = producer.produce_batch(target, batch)
        if queued != len(batch) or producer.flush(_TIMEOUT_S):
            raise SystemExit(f"{target}: {len(batch) - queued} messages do not fit into the producer's queue.")


def count_messages(config: Config, topic: str) -> int:
    """Count the committed messages of a topic by reading them, because the counts of their writers are not trusted."""
    return sum(map(len, read_messages(config, topic)))


def read_messages(config: Config, topic: str) -> Iterator[list[Message]]:
    """Read all committed messages of a topic.

    Raises:
        TimeoutError: no message arrived for a minute.
    """
    with open_consumer(config, "benchmark-reader") as client:
        left = set(list_partitions(client, topic))
        client.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        deadline = time.monotonic() + _TIMEOUT_S
        while left:
            # Returns when it has a full batch, or at the timeout.
            consumed = client.consume(_BATCH, timeout=0.1)
            if consumed:
                deadline = time.monotonic() + _TIMEOUT_S
            elif time.monotonic() > deadline:
                raise TimeoutError(f"{topic}: no message for {_TIMEOUT_S} s before the end of partitions {left}")
            messages = []
            for message in consumed:
                error = message.error()
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
            yield messages
