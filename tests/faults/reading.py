"""Reads back what the systems hold, with their plain clients; each reader goes on where it was."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan
from google.cloud import storage

from tests.faults.audit import Document, Row
from tests.testkit.kafka import Config, Record, settle
from tests.testkit.wait import DEADLINE_S


class TopicReader:
    """Reads the committed messages of a topic, from where it was the last time to the end."""

    def __init__(self, config: Config, topic: str) -> None:
        self._config, self._topic = config, topic
        self._positions: dict[int, int] = {}

    def new(self) -> list[Record]:
        """
        Raises:
            AssertionError: a transaction stays open, or a partition did not come to its end.
        """
        settle(self._config, self._topic)
        consumer = Consumer(
            {
                **self._config,
                "group.id": f"audit-{uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "log_level": 2,
            }
        )
        records: list[Record] = []
        try:
            partitions = consumer.list_topics(self._topic, timeout=DEADLINE_S).topics[self._topic].partitions
            starts = {partition: self._positions.get(partition, 0) for partition in partitions}
            consumer.assign([TopicPartition(self._topic, partition, start) for partition, start in starts.items()])
            left, deadline = set(partitions), time.monotonic() + DEADLINE_S
            while left:
                assert time.monotonic() < deadline, f"partitions {left} of {self._topic} did not end"
                for message in consumer.consume(10_000, timeout=0.1):
                    deadline = time.monotonic() + DEADLINE_S
                    error = message.error()
                    if error is None:
                        records.append(
                            Record(
                                message.key(), message.value(), message.headers(), message.partition(), message.offset()
                            )
                        )
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
                    else:
                        raise KafkaException(error)
            self._positions = {
                position.partition: position.offset for position in consumer.position(consumer.assignment())
            }
        finally:
            consumer.close()
        self._positions = {
            partition: max(position, starts[partition]) for partition, position in self._positions.items()
        }
        return sorted(records, key=lambda record: (record.partition, record.offset))


def documents(client: Elasticsearch, index: str, ids: Sequence[str]) -> dict[str, Document]:
    """The documents of these ids that there are."""
    held: dict[str, Document] = {}
    for start in range(0, len(ids), 1_000):
        answer = client.mget(index=index, ids=ids[start : start + 1_000])
        held |= {hit["_id"]: Document(hit["_version"], hit["_source"]) for hit in answer["docs"] if hit["found"]}
    return held


def versions(client: Elasticsearch, index: str) -> dict[str, int]:
    """The version of every document by its id."""
    client.indices.refresh(index=index)
    hits = scan(client, index=index, query={"_source": False, "version": True}, size=5_000)
    return {hit["_id"]: hit["_version"] for hit in hits}


def checksums(client: storage.Client, bucket: str, prefix: str) -> dict[str, str]:
    """The CRC32C of every object by its name."""
    return {blob.name: blob.crc32c for blob in client.list_blobs(bucket, prefix=prefix)}


def rows(client: storage.Client, bucket: str, names: Iterable[str]) -> Iterator[Row]:
    for name in names:
        content = client.bucket(bucket).blob(name).download_as_bytes()
        for values in pq.read_table(io.BytesIO(content)).to_pylist():
            yield Row(name, values)


class Offsets:
    """Where groups and topics are, asked without disturbing the groups."""

    def __init__(self, config: Config, partitions: int) -> None:
        self._config, self._partitions = config, partitions
        self._clients: dict[str, Consumer] = {}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group has committed; 0 where nothing. An open transaction of the group is not waited for.

        Raises:
            KafkaException: the broker is away.
        """
        asked = [TopicPartition(topic, partition) for partition in range(self._partitions)]
        return {
            offset.partition: max(offset.offset, 0)
            for offset in self._client(group, "read_uncommitted").committed(asked, 2)
        }

    def ends(self, topic: str) -> dict[int, int]:
        """The last stable offsets.

        Raises:
            KafkaException: the broker is away.
        """
        client = self._client("audit-ends", "read_committed")
        return {
            partition: client.get_watermark_offsets(TopicPartition(topic, partition), timeout=2)[1]
            for partition in range(self._partitions)
        }

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _client(self, group: str, isolation: str) -> Consumer:
        if group not in self._clients:
            settings: dict[str, Any] = {"group.id": group, "isolation.level": isolation, "enable.auto.commit": False}
            self._clients[group] = Consumer({**self._config, **settings, "log_level": 2})
        return self._clients[group]
