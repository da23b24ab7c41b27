"""PutGCP's work: what waits on rides_result goes to Cloud Storage as Parquet, by the hour of the ride.

The export has a consumer group of its own. It waits until many rides are there, or until the first of them has waited
long enough, so that objects are few and large while Elasticsearch shows every ride at once.
"""

from __future__ import annotations

import time
from functools import partial

import msgspec
from confluent_kafka import TopicPartition
from google.cloud import storage

from jobs.kafka.claim import bounds, committed, partitions
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, broker_errors, consumer
from jobs.rides.transform import flatten
from jobs.sinks.parquet import check_bucket, export, object_name
from jobs.staging import Chunk, Manifest, prefetched, read_chunk


class Backlog(msgspec.Struct, frozen=True):
    """What a group has still to do: offsets, whether a run has begun with them, and whether one is of before a time."""

    offsets: int
    is_begun: bool
    is_old: bool

    def is_due(self, target_records: int) -> bool:
        return self.offsets > 0 and (self.is_begun or self.is_old or self.offsets >= target_records)


def backlog(config: Config, topic: str, group: str, max_age_s: float) -> Backlog:
    """What waits on a topic for a group; old is what has been there for `max_age_s` seconds."""
    with broker_errors(config, f"reading the lag of {group}"), consumer(config, group) as client:
        of = partitions(client, topic)
        at = committed(client, topic, of)
        within = bounds(client, topic, of)
        border_ms = int((time.time() - max_age_s) * 1000)
        asked = [TopicPartition(topic, partition, border_ms) for partition in of]
        younger = {
            found.partition: found.offset for found in client.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        }
    offsets, is_old = 0, False
    for partition, bound in within.items():
        start = at[partition].offset
        left = bound.end - (bound.low if start is None else start)
        # A negative offset: there is nothing younger.
        is_old |= left > 0 and (younger[partition] < 0 or younger[partition] > bound.end - left)
        offsets += left
    return Backlog(offsets, any(found.metadata for found in at.values()), is_old)


def put_gcs(client: storage.Client, bucket: str, prefix: str, staged: Manifest) -> list[str]:
    """Write staged results as Parquet objects of SINK_SCHEMA; their names. What is no result is left out."""
    check_bucket(client, bucket)

    def put_chunk(chunk: Chunk) -> list[str]:
        rows, _ = flatten(read_chunk(chunk.url), chunk.partition)
        return export(client, bucket, rows, partial(object_name, prefix, staged.topic, chunk))

    # Two at a time: most of the work is Arrow's, which needs no interpreter lock.
    return [name for _, names in prefetched(put_chunk, staged.chunks, ahead=2) for name in names]
