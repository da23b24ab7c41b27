"""Rebuild the Elasticsearch index: the same documents with the same ids and versions.

Exported rides are read from Parquet. Indexed rides that are not exported yet are read from rides_result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from jobs.clients import Systems
from jobs.errors import ConfigurationError
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.offsets import Bounds, list_partitions, read_bounds, read_group_offsets
from jobs.kafka.scan import Claim, scan
from jobs.kafka.staged import make_message_batch
from jobs.parallel import prefetch
from jobs.rides.ops.retention import compute_expiry
from jobs.rides.ops.superseded import is_reprocessing
from jobs.rides.transform import SINK_SCHEMA, flatten, make_documents
from jobs.rides.vertical import EXPORT_GROUP, INDEX_GROUP, TEMPLATE, RidesSettings
from jobs.sinks.elasticsearch import index_batches, make_bulk_lines, set_up_index, translate_errors
from jobs.sinks.parquet import check_bucket, list_objects, read_rows

_READ_AHEAD = 8  # objects read in parallel
_BULK_ROWS = 50_000  # the minimum; many objects hold only a few hundred rows


class Reindexed(msgspec.Struct):
    """Counts of the objects, their rows, and the results from Kafka that were read; `documents` in the index now.

    `refused`: rows that Elasticsearch rejected; `refusal`: the reason for the first. `expired`: rows that were skipped
    because `delete_expired` would delete them.
    """

    objects: int = 0
    rows: int = 0
    results: int = 0
    expired: int = 0
    refused: int = 0
    refusal: str = ""
    documents: int = 0


def reindex(systems: Systems[RidesSettings]) -> Reindexed:
    """Index every row that the pipeline has indexed before. Creates the index from its template if it is missing.

    A row's version is its Kafka offset, so the newest row of a ride wins in any order, also against what
    dag_index_and_export writes at the same time.

    Args:
        systems: its user may apply the template and write.

    Raises:
        ConfigurationError: an object is from another program, the index has another mapping, or a reprocessing is
            unfinished.
        ServiceUnavailableError: not all rows are indexed. It is safe to repeat.
    """
    settings, elasticsearch = systems.settings, systems.elasticsearch
    _check_no_reprocessing(systems)
    index, expiry = settings.rides_index, compute_expiry(settings)
    check_bucket(systems.gcs, settings.bucket)
    set_up_index(elasticsearch, index, TEMPLATE)
    done = Reindexed()
    # Offsets are read before objects: a row that is exported in between is read twice, never missed.
    topic_bounds, claims = _find_unexported(systems)
    batches = chain(_read_objects(systems, done), _read_results(systems, claims, done))

    def build_actions() -> Iterator[tuple[None, pa.StringArray]]:
        for batch in _join_batches(batches, _BULK_ROWS):
            kept = batch if expiry is None else _filter_unexpired(batch, expiry, topic_bounds)
            done.expired += len(batch) - len(kept)
            yield None, make_bulk_lines(kept["ride_id"], kept["kafka_offset"], make_documents(kept))

    for _, refusals in index_batches(elasticsearch, index, build_actions()):
        done.refused += len(refusals)
        done.refusal = done.refusal or next(iter(refusals.values()), "")
    _check_no_reprocessing(systems)  # one may have started meanwhile
    with translate_errors(elasticsearch, f"counting {index}"):
        elasticsearch.indices.refresh(index=index, ignore_unavailable=True)
        done.documents = elasticsearch.count(index=index, ignore_unavailable=True)["count"]
    return done


def _check_no_reprocessing(systems: Systems[RidesSettings]) -> None:
    if is_reprocessing(systems.config, systems.settings.raw_topic):
        raise ConfigurationError(
            "A reprocessing is unfinished: Parquet still holds rides that it deletes from Elasticsearch. Finish it "
            "first, then run this again. Any `make reprocess FROM=… TO=…` prints its window."
        )


def _read_objects(systems: Systems[RidesSettings], done: Reindexed) -> Iterator[pa.RecordBatch]:
    blobs = list_objects(systems.gcs, systems.settings.bucket, systems.settings.gcs_prefix)
    for _, rows in prefetch(lambda blob: read_rows(blob, SINK_SCHEMA), blobs, ahead=_READ_AHEAD):
        done.objects += 1
        done.rows += len(rows)
        yield rows
        systems.progress("reading objects", done.objects, len(blobs))


def _find_unexported(systems: Systems[RidesSettings]) -> tuple[dict[int, Bounds], list[Claim]]:
    """Return the bounds of the result topic, and the ranges of offsets that are indexed but not exported."""
    config, topic = systems.config, systems.settings.result_topic
    with translate_broker_errors(config, f"reading the offsets of {topic}"), open_consumer(config, "reindex") as client:
        topic_bounds = read_bounds(config, client, topic, list_partitions(client, topic))
    indexed, exported = (read_group_offsets(config, topic, group) for group in (INDEX_GROUP, EXPORT_GROUP))
    claims = [
        Claim(partition, max(exported[partition] or 0, bound.low), indexed[partition] or 0)
        for partition, bound in topic_bounds.items()
    ]
    return topic_bounds, [claim for claim in claims if claim.start < claim.end]


def _filter_unexpired(rows: pa.RecordBatch, expiry: datetime, topic_bounds: dict[int, Bounds]) -> pa.RecordBatch:
    """Return the rows that `delete_expired` keeps: recent ones, and those whose results are still in Kafka."""
    partitions_ = pa.array(topic_bounds, SINK_SCHEMA.field("kafka_partition").type)
    lows = pa.array([bound.low for bound in topic_bounds.values()], pa.int64())
    low = lows.take(pc.index_in(rows["kafka_partition"], partitions_))
    is_held = pc.fill_null(pc.greater_equal(rows["kafka_offset"], low), False)
    return rows.filter(pc.or_(pc.greater_equal(rows["agent_timestamp"], pa.scalar(expiry)), is_held))


def _read_results(systems: Systems[RidesSettings], claims: list[Claim], done: Reindexed) -> Iterator[pa.RecordBatch]:
    config, topic = systems.config, systems.settings.result_topic
    with translate_broker_errors(config, f"reading {topic}"), open_consumer(config, "reindex") as client:
        for messages in scan(client, topic, claims, systems.progress, "reading"):
            rows, _ = flatten(make_message_batch(messages), messages[0].partition())
            done.results += len(rows)
            yield rows


def _join_batches(batches: Iterable[pa.RecordBatch], min_rows: int) -> Iterator[pa.RecordBatch]:
    """Join batches until each has at least `min_rows` rows; the last one may have fewer."""
    buffer: list[pa.RecordBatch] = []
    for batch in batches:
        buffer.append(batch)
        if sum(map(len, buffer)) >= min_rows:
            yield pa.concat_batches(buffer)
            buffer = []
    if buffer:
        yield pa.concat_batches(buffer)
