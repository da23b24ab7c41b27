"""PutGCP's work: export rides_result to Cloud Storage as Parquet, by the hour of the ride.

The export has its own consumer group. It waits for many rides, or until the oldest one has waited long enough, so that
objects are few and large while Elasticsearch shows every ride at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec
import pyarrow as pa
from confluent_kafka import TopicPartition
from google.cloud import storage

from jobs.files import Folder, read_chunk
from jobs.kafka.claim import Limits, Plan, claim
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, translate_broker_errors
from jobs.kafka.commit import commit_offsets
from jobs.kafka.offsets import SETTLE_S, open_group_reader, read_bounds
from jobs.kafka.stage import stage
from jobs.kafka.staged import Chunk, Manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.parallel import prefetch
from jobs.rides.transform import REPETITIVE, flatten
from jobs.rides.vertical import RidesSettings
from jobs.sinks.parquet import check_bucket, export, holds_objects, name_object


class Target(msgspec.Struct, frozen=True):
    """What to export, for which consumer group, and where to."""

    topic: str
    group: str
    bucket: str
    prefix: str


class Exported(msgspec.Struct, frozen=True):
    """The number of rows and objects written. If no export was due, `waits` says what the messages wait for."""

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
    """Export if EXPORT_TARGET_RECORDS rides wait, if the oldest has waited EXPORT_MAX_AGE_S, or on demand.

    Args:
        connect: makes the client of Cloud Storage; called only when an export is due.
        is_asked_for: export all waiting rides now.

    Raises:
        OffsetsError: the bucket has objects but the group no committed offsets, so everything would be exported twice.
        ConfigurationError, OffsetsError, ServiceUnavailableError: nothing was committed; it is safe to try again.
    """
    # A caller may see the results of a transaction before readers do.
    settle_s = SETTLE_S if is_asked_for else 0
    backlog = read_backlog(config, target.topic, target.group, settings.export_max_age_s, settle_s=settle_s)
    least = 1 if is_asked_for else settings.export_target_records
    if not backlog.is_due(least):
        held = f", {backlog.held} of them behind an open transaction" if backlog.held else ""
        return Exported(
            waits=f"{backlog.offsets} offsets of {target.topic} wait for EXPORT_TARGET_RECORDS={least} or "
            f"EXPORT_MAX_AGE_S={settings.export_max_age_s:g}{held}"
        )
    client = connect()
    with open_group_reader(config, target.topic, target.group) as reader:
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
    """The backlog of the export.

    Attributes:
        offsets: offsets from the committed ones to the high watermarks.
        held: how many of them open transactions hold back.
        is_begun: whether an earlier run planned a claim and did not finish it.
        is_old: whether the oldest message has waited longer than EXPORT_MAX_AGE_S.
    """

    offsets: int
    held: int
    is_begun: bool
    is_old: bool

    def is_due(self, target_records: int) -> bool:
        readable = self.offsets - self.held
        return readable > 0 and (self.is_begun or self.is_old or readable >= target_records)


def read_backlog(config: Config, topic: str, group: str, max_age_s: float, *, settle_s: float = 0) -> Backlog:
    """Read the backlog of a group on a topic.

    Args:
        max_age_s: the age, in seconds, from which a message is old.
        settle_s: seconds to wait for the end of the transactions that are open now.
    """
    with (
        translate_broker_errors(config, f"reading the lag of {group}"),
        open_group_reader(config, topic, group) as reader,
    ):
        committed_offsets = reader.observe()
        bounds = read_bounds(config, reader.consumer, topic, list(committed_offsets), settle_s=settle_s)
        border_ms = int((time.time() - max_age_s) * 1000)
        times = [TopicPartition(topic, partition, border_ms) for partition in committed_offsets]
        younger = {
            answer.partition: answer.offset
            for answer in reader.consumer.offsets_for_times(times, timeout=REQUEST_TIMEOUT_S)
        }
    offsets, is_old = 0, False
    for partition, bound in bounds.items():
        start = committed_offsets[partition].offset
        start = bound.low if start is None else start
        # A negative offset means that all messages are older.
        is_old |= bound.end > start and (younger[partition] < 0 or younger[partition] > start)
        offsets += bound.high - start
    is_begun = any(committed.decode_plan(Plan) is not None for committed in committed_offsets.values())
    return Backlog(offsets, sum(bound.held for bound in bounds.values()), is_begun, is_old)


def put_gcs(client: storage.Client, bucket: str, prefix: str, staged: Manifest) -> list[str]:
    """Write staged results as Parquet objects of SINK_SCHEMA. Returns their names. Invalid messages are left out."""
    check_bucket(client, bucket)

    def put_chunk(chunk: Chunk) -> list[str]:
        rows, _ = flatten(read_chunk(chunk.url), chunk.partition)
        return put_rows(client, bucket, prefix, topic=staged.topic, chunk=chunk, rows=rows)

    # Two chunks at a time: most of the work is in Arrow, which releases the GIL.
    return [name for _, names in prefetch(put_chunk, staged.chunks, ahead=2) for name in names]


def put_rows(
    client: storage.Client, bucket: str, prefix: str, *, topic: str, chunk: Chunk, rows: pa.RecordBatch
) -> list[str]:
    """Write the rows (SINK_SCHEMA) of a chunk as one object for each hour. Returns the names of the objects.

    Raises:
        ServiceUnavailableError, ConfigurationError: not all objects were written; it is safe to try again.
    """
    return export(client, bucket, rows, partial(name_object, prefix, topic, chunk), REPETITIVE)
