"""PutGCP's work: what waits on rides_result goes to Cloud Storage as Parquet, by the hour of the ride.

The export has a consumer group of its own. It waits until many rides are there, or until the first of them has waited
long enough, so that objects are few and large while Elasticsearch shows every ride at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec
from confluent_kafka import TopicPartition
from google.cloud import storage

from jobs.files import Folder, read_chunk
from jobs.kafka.claim import Limits, Plan, claim
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, broker_errors
from jobs.kafka.commit import commit_offsets
from jobs.kafka.offsets import SETTLE_S, bounds, group_reader
from jobs.kafka.stage import stage
from jobs.kafka.staged import Chunk, Manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.parallel import prefetched
from jobs.rides.transform import REPETITIVE, flatten
from jobs.rides.vertical import RidesSettings
from jobs.sinks.parquet import check_bucket, export, holds_objects, object_name


class Target(msgspec.Struct, frozen=True):
    """What is exported, by which consumer group, and where to."""

    topic: str
    group: str
    bucket: str
    prefix: str


class Exported(msgspec.Struct, frozen=True):
    """How many rows were written as how many objects; `waits` says what messages wait for if none was due."""

    rows: int = 0
    objects: int = 0
    waits: str = ""


def export_if_due(
    config: Config,
    connect: Callable[[], storage.Client],
    target: Target,
    settings: RidesSettings,
    folder: Folder,
    *,
    topic_ids: TopicIds,
    is_asked_for: bool,
) -> Exported:
    """Export what waits when there are EXPORT_TARGET_RECORDS, when the first has waited EXPORT_MAX_AGE_S, or on demand.

    If the group has no committed offsets although there are objects, it refuses to write everything a second time.

    Args:
        connect: makes the client of Cloud Storage; called only when an export is due.

    Raises:
        ConfigurationError, OffsetsError, ServiceUnavailableError: nothing was committed; exporting again is harmless.
    """
    # A caller may see results before their transaction is readable.
    settle_s = SETTLE_S if is_asked_for else 0
    found = backlog(config, target.topic, target.group, settings.export_max_age_s, settle_s=settle_s)
    least = 1 if is_asked_for else settings.export_target_records
    if not found.is_due(least):
        held = f", {found.held} of them behind an open transaction" if found.held else ""
        return Exported(
            waits=f"{found.offsets} offsets of {target.topic} wait for EXPORT_TARGET_RECORDS={least} or "
            f"EXPORT_MAX_AGE_S={settings.export_max_age_s:g}{held}"
        )
    client = connect()
    with group_reader(config, target.topic, target.group) as reader:
        claimed = claim(
            config,
            reader,
            Limits.from_settings(settings),
            topic_ids=topic_ids,
            is_planned=True,
            has_output=lambda _: holds_objects(client, target.bucket, target.prefix),
        )
        if claimed.is_empty:
            return Exported()
        _, manifest = stage(config, reader, claimed, folder)
    names = put_gcs(client, target.bucket, target.prefix, manifest)
    commit_offsets(config, manifest)
    folder.delete()
    return Exported(manifest.records, len(names))


class Backlog(msgspec.Struct, frozen=True):
    """What a group has still to do: offsets, whether a run has begun with them, and whether one is of before a time.

    Of these offsets, `held` are behind open transactions and cannot be exported yet.
    """

    offsets: int
    held: int
    is_begun: bool
    is_old: bool

    def is_due(self, target_records: int) -> bool:
        readable = self.offsets - self.held
        return readable > 0 and (self.is_begun or self.is_old or readable >= target_records)


def backlog(config: Config, topic: str, group: str, max_age_s: float, *, settle_s: float = 0) -> Backlog:
    """What waits on a topic for a group; old is what has been there for `max_age_s` seconds.

    Args:
        settle_s: seconds to wait for the end of the transactions that are open now.
    """
    with broker_errors(config, f"reading the lag of {group}"), group_reader(config, topic, group) as reader:
        at = reader.observed()
        within = bounds(config, reader.consumer, topic, list(at), settle_s=settle_s)
        border_ms = int((time.time() - max_age_s) * 1000)
        asked = [TopicPartition(topic, partition, border_ms) for partition in at]
        younger = {
            found.partition: found.offset
            for found in reader.consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        }
    offsets, is_old = 0, False
    for partition, bound in within.items():
        start = at[partition].offset
        start = bound.low if start is None else start
        # A negative offset: there is nothing younger.
        is_old |= bound.end > start and (younger[partition] < 0 or younger[partition] > start)
        offsets += bound.high - start
    is_begun = any(found.plan(Plan) is not None for found in at.values())
    return Backlog(offsets, sum(it.held for it in within.values()), is_begun, is_old)


def put_gcs(client: storage.Client, bucket: str, prefix: str, staged: Manifest) -> list[str]:
    """Write staged results as Parquet objects of SINK_SCHEMA; their names. What is no result is left out."""
    check_bucket(client, bucket)

    def put_chunk(chunk: Chunk) -> list[str]:
        rows, _ = flatten(read_chunk(chunk.url), chunk.partition)
        return export(client, bucket, rows, partial(object_name, prefix, staged.topic, chunk), REPETITIVE)

    # Two at a time: most of the work is Arrow's, which needs no interpreter lock.
    return [name for _, names in prefetched(put_chunk, staged.chunks, ahead=2) for name in names]
