"""Consumers and producers of confluent-kafka, configured so that no message is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaException

from jobs.errors import IS_IT_UP, ServiceUnavailableError

Config = Mapping[str, Any]
Isolation = Literal["read_committed", "read_uncommitted"]

# Timeout of one call to a broker, retries and backoff included.
REQUEST_TIMEOUT_S = 30.0

# Topics limit the size of compressed batches, librdkafka that of uncompressed messages. Only the topic's limit applies.
MAX_MESSAGE_BYTES = 1_000_000_000

# librdkafka's partitioner that chooses the same partition for a key as Java's default.
PARTITIONER = "murmur2_random"


# librdkafka logs twenty lines a second while a broker is down. Calls report the errors anyway.
QUIET = {"log_level": 2}

# Connect to all brokers at the start. By default librdkafka connects to a broker on first use, which costs 0.05 s for
# metadata and 0.5 s for init_transactions.
CONNECTED = {"enable.sparse.connections": False}


@contextmanager
def open_consumer(config: Config, group: str, *, isolation: Isolation = "read_committed") -> Iterator[Consumer]:
    """A consumer for assigned partitions. It commits nothing by itself and is closed at the end.

    Args:
        config: at least bootstrap.servers; security settings are passed on unchanged.
    """
    client = Consumer(
        {
            **QUIET,
            **CONNECTED,
            **config,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            # Limits the uncompressed size of a batch, too. With the default of 100 MB, a message of 80 MiB that zstd
            # made small enough for its topic cannot be read and blocks its partition.
            "receive.message.max.bytes": MAX_MESSAGE_BYTES,
            # Messages fetched ahead of a slow reader stay in memory, uncompressed. Larger values were not faster.
            "fetch.message.max.bytes": 2 * 2**20,
            "queued.max.messages.kbytes": 4 * 1024,
            # By default a full queue stops fetching for one second.
            "fetch.queue.backoff.ms": 10,
            # When a reader changes to the next partition, it first waits for the open fetch of the last one.
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def translate_broker_errors(config: Config, doing: str) -> Iterator[None]:
    """Turn a KafkaException into a ServiceUnavailableError with the address and what to do."""
    try:
        yield
    except KafkaException as error:
        raise ServiceUnavailableError(
            f"Kafka at {config['bootstrap.servers']}: {doing} failed: {error.args[0].str()}. "
            f"Nothing was committed. {IS_IT_UP}"
        ) from error
