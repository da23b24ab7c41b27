"""Reads back what the systems hold, with their plain clients; each reader goes on where it was."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq
from confluent_kafka import Consumer, TopicPartition
from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan
from google.cloud import storage

from tests.faults.audit import Document, Row
from tests.testkit.kafka import Config, Record, open_reader, read_to_end, settle
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
        with open_reader(self._config) as consumer:
            if not self._positions:
                partitions = consumer.list_topics(self._topic, timeout=DEADLINE_S).topics[self._topic].partitions
                self._positions = dict.fromkeys(partitions, 0)
            records, self._positions = read_to_end(consumer, self._topic, self._positions)
        return records


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
