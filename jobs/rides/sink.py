"""PutElasticSearch's, PutGCP's and CommitOffsets' work: staged rows into the sinks, then the group moves on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import msgspec
import pyarrow as pa
from elasticsearch import Elasticsearch
from google.cloud import storage

from jobs.errors import OffsetsError
from jobs.kafka.client import Config
from jobs.kafka.dead_letter import Origin
from jobs.kafka.publish import send_dead_letter
from jobs.kafka.transaction import group_writer
from jobs.rides.contract import Reason
from jobs.rides.transform import documents
from jobs.settings import ROOT
from jobs.sinks.elasticsearch import actions, bulk, ensure_template
from jobs.sinks.parquet import check_bucket, export, object_name
from jobs.staging import REJECT_SCHEMA, Folder, Manifest, prefetched, read_batches, read_chunk, reject_batch

TEMPLATE = ROOT / "infra" / "elasticsearch" / "rides-template.json"


def put_elasticsearch(
    client: Elasticsearch, index: str, staged: Manifest, transformed: Manifest, folder: Folder
) -> tuple[str, Manifest]:
    """Index transformed rows.

    Args:
        staged: the run's messages as they were, for what Elasticsearch refuses.
        transformed: the same chunks as rows of SINK_SCHEMA.

    Returns:
        URL and content of a manifest whose rejects are what Elasticsearch will never take as it is.
    """
    ensure_template(client, "rides", TEMPLATE)
    originals = {(chunk.partition, chunk.first): chunk for chunk in staged.chunks}
    refused = 0

    def rejected() -> Iterator[pa.RecordBatch]:
        nonlocal refused
        for chunk, rows in prefetched(lambda chunk: read_chunk(chunk.url), transformed.chunks):
            lines = actions(rows.column("ride_id"), rows.column("kafka_offset"), documents(rows))
            refusals = bulk(client, index, lines)
            if not refusals:
                continue
            refused += len(refusals)
            offsets = rows.column("kafka_offset").take(pa.array(list(refusals)))
            messages = read_chunk(originals[chunk.partition, chunk.first].url)
            faulty = messages.filter(pa.compute.is_in(messages.column("offset"), offsets))
            texts = dict(zip(offsets.to_pylist(), refusals.values(), strict=True))
            yield reject_batch(
                chunk.partition,
                faulty,
                Reason.REFUSED_BY_ELASTICSEARCH,
                [texts[offset] for offset in faulty.column("offset").to_pylist()],
            )

    rejects_url = folder.write_table("rejects", rejected(), REJECT_SCHEMA)
    done = msgspec.structs.replace(transformed, rejects_url=rejects_url, rejects=refused)
    return folder.write_manifest(done), done


def put_gcs(client: storage.Client, bucket: str, prefix: str, transformed: Manifest) -> list[str]:
    """Write transformed rows as Parquet objects; their names."""
    check_bucket(client, bucket)
    names = []
    for chunk, rows in prefetched(lambda chunk: read_chunk(chunk.url), transformed.chunks):
        names += export(client, bucket, rows, partial(object_name, prefix, transformed.topic, chunk))
    return names


class Rejects(msgspec.Struct, frozen=True):
    """The rejects of one task, and how Kafka Connect would call the stage that it is."""

    manifest: Manifest
    task_id: str
    stage: str


def commit_offsets(
    config: Config, manifest: Manifest, rejects: list[Rejects], dlq_topic: str, dag_id: str
) -> Counter[str]:
    """Publish what could not go on and commit the claim's ends, in one transaction.

    Returns:
        How many were rejected, by reason; empty if another worker has committed this claim already.

    Raises:
        OffsetsError: the group is neither where the claim starts nor behind its end.
        ServiceUnavailableError: a broker is away, or a newer worker has taken over; nothing was committed.
    """
    counts: Counter[str] = Counter()
    with group_writer(
        config, manifest.group, manifest.topic, sum(found.manifest.rejects for found in rejects)
    ) as writer:
        at = {partition: found.offset for partition, found in writer.committed().items()}
        if manifest.is_passed_by(at):
            return counts
        for claim in manifest.claims:
            if at[claim.partition] != claim.start:
                raise OffsetsError(
                    f"{manifest.topic}[{claim.partition}]: group {manifest.group} is at {at[claim.partition]}, not at "
                    f"{claim.start} where this run's claim starts. Nothing was committed. Clear the run from "
                    "ConsumeKafka on."
                )
        with writer.transaction(manifest.ends):
            for found in rejects:
                for batch in read_batches(found.manifest.rejects_url) if found.manifest.rejects_url else ():
                    for reject in batch.to_pylist():
                        where = (manifest.topic, reject["partition"], reject["offset"])
                        send_dead_letter(writer, dlq_topic, reject, Origin(*where, dag_id, found.task_id, found.stage))
                        counts[reject["reason"]] += 1
    return counts
