"""Consumers and producers of confluent-kafka, configured so that nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaException

from jobs.errors import IS_IT_UP, ServiceUnavailableError

Config = Mapping[str, Any]
Isolation = Literal["read_committed", "read_uncommitted"]

# Seconds that one call to a broker may take, its retries and backoff included.
REQUEST_TIMEOUT_S = 30.0

# Topics limit the size of compressed batches, librdkafka that of plain messages: the topic's word shall count.
MAX_MESSAGE_BYTES = 1_000_000_000

# librdkafka's partitioner that agrees with Java's default for messages with a key.
PARTITIONER = "murmur2_random"


# librdkafka prints twenty lines a second while a broker is away; what matters comes as the error of a call.
QUIET = {"log_level": 2}

# Connect to all brokers at once. By default librdkafka connects to one when it needs it, and then waits for a timer:
# 0.05 s for metadata, 0.5 s for init_transactions.
CONNECTED = {"enable.sparse.connections": False}


@contextmanager
def consumer(config: Config, group: str, *, isolation: Isolation = "read_committed") -> Iterator[Consumer]:
    """A consumer for assigned partitions: it commits nothing by itself and is closed.

    `config` holds at least bootstrap.servers; what a connection says about security goes through as it is.
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
            # Bounds what a batch may hold unpacked, too: with the default of 100 MB, a message of 80 MiB that zstd made
            # small enough for its topic could not be read, and would block its partition.
            "receive.message.max.bytes": MAX_MESSAGE_BYTES,
            # What is fetched ahead of a slow reader or disk stays in memory, unpacked; more made nothing faster.
            "fetch.message.max.bytes": 2 * 2**20,
            "queued.max.messages.kbytes": 4 * 1024,
            # The default is to stop fetching for a whole second once so much is queued.
            "fetch.queue.backoff.ms": 10,
            # A reader that goes from partition to partition waits out the last one's fetch each time.
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def broker_errors(config: Config, doing: str) -> Iterator[None]:
    """Turn a KafkaException into a ServiceUnavailableError that names the address and the remedy."""
    try:
        yield
    except KafkaException as error:
        raise ServiceUnavailableError(
            f"Kafka at {config['bootstrap.servers']}: {doing} failed: {error.args[0].str()}. "
            f"Nothing was committed. {IS_IT_UP}"
        ) from error
