"""Rebuilding the Elasticsearch index, id for id: the same documents under the same versions.

Parquet holds what is exported; what is indexed and still waits for its export comes from rides_result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

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
from jobs.rides.ops.retention import expiry
from jobs.rides.ops.superseded import is_reprocessing
from jobs.rides.transform import SINK_SCHEMA, documents, flatten
from jobs.rides.vertical import EXPORT_GROUP, INDEX_GROUP, TEMPLATE, RidesSettings
from jobs.sinks.elasticsearch import actions, apply_template, bulk, explained
from jobs.sinks.parquet import check_bucket, objects, read_rows

# Objects are read side by side; a bulk is of so many rows or more, since many objects may hold a few hundred only.
_READ_AHEAD = 8
_BULK_ROWS = 50_000


class Reindexed(msgspec.Struct):
    """How many objects, rows of them and results from Kafka were read, and how many rides the index holds now.

    `refused` is how many Elasticsearch did not take, `refusal` what it said of the first, `expired` how many
    `delete_expired` would delete, and were left out.
    """

    objects: int = 0
    rows: int = 0
    results: int = 0
    expired: int = 0
    refused: int = 0
    refusal: str = ""
    documents: int = 0


def reindex(systems: Systems[RidesSettings]) -> Reindexed:
    """Index every row that the pipeline has indexed before; makes the index by its template if there is none.

    A row's version is its Kafka offset, so the newest row of a ride stays, in whatever order they come, and what
    dag_index_and_export writes meanwhile.

    Args:
        systems: may apply the template and write.

    Raises:
        ConfigurationError: an object is not of this pipeline, the index holds another mapping, or a reprocessing is
            under way.
        ServiceUnavailableError: not all is indexed; doing it again is harmless.
    """
    settings, elasticsearch = systems.settings, systems.elasticsearch
    _check_no_reprocessing(systems)
    index, oldest = settings.rides_index, expiry(settings)
    check_bucket(systems.gcs, settings.bucket)
    apply_template(elasticsearch, index, TEMPLATE)
    done = Reindexed()
    # First the offsets, then the objects: what is exported in between is read twice, never missed.
    within, waiting = _indexed_and_not_exported(systems)
    rows = _rows_of_objects(systems, done), _rows_of_results(systems, waiting, done)

    def batches() -> Iterator[tuple[None, pa.StringArray]]:
        for batch in _joined((it for source in rows for it in source), _BULK_ROWS):
            kept = batch if oldest is None else _unexpired(batch, oldest, within)
            done.expired += len(batch) - len(kept)
            yield None, actions(kept["ride_id"], kept["kafka_offset"], documents(kept))

    for _, refusals in bulk(elasticsearch, index, batches()):
        done.refused += len(refusals)
        done.refusal = done.refusal or next(iter(refusals.values()), "")
    _check_no_reprocessing(systems)  # one may have begun since
    with explained(elasticsearch, f"counting {index}"):
        elasticsearch.indices.refresh(index=index, ignore_unavailable=True)
        done.documents = elasticsearch.count(index=index, ignore_unavailable=True)["count"]
    return done


def _check_no_reprocessing(systems: Systems[RidesSettings]) -> None:
    if is_reprocessing(systems.config, systems.settings.raw_topic):
        raise ConfigurationError(
            "A reprocessing is not done: Parquet still holds rides that it takes out of Elasticsearch. Finish it "
            "first, then do this again; any `make reprocess FROM=… TO=…` says which it is."
        )


def _rows_of_objects(systems: Systems[RidesSettings], done: Reindexed) -> Iterator[pa.RecordBatch]:
    blobs = objects(systems.gcs, systems.settings.bucket, systems.settings.gcs_prefix)
    for _, rows in prefetch(lambda blob: read_rows(blob, SINK_SCHEMA), blobs, ahead=_READ_AHEAD):
        done.objects += 1
        done.rows += len(rows)
        yield rows
        systems.progress("reading objects", done.objects, len(blobs))


def _indexed_and_not_exported(systems: Systems[RidesSettings]) -> tuple[dict[int, Bounds], list[Claim]]:
    """What the result topic holds, and what of it is indexed and not exported."""
    config, topic = systems.config, systems.settings.result_topic
    with translate_broker_errors(config, f"reading the offsets of {topic}"), open_consumer(config, "reindex") as client:
        within = read_bounds(config, client, topic, list_partitions(client, topic))
    indexed, exported = (read_group_offsets(config, topic, group) for group in (INDEX_GROUP, EXPORT_GROUP))
    claims = [Claim(it, max(exported[it] or 0, found.low), indexed[it] or 0) for it, found in within.items()]
    return within, [claim for claim in claims if claim.start < claim.end]


def _unexpired(rows: pa.RecordBatch, oldest: datetime, within: dict[int, Bounds]) -> pa.RecordBatch:
    """Rows that `delete_expired` leaves in the index: young ones, and those whose results Kafka still holds."""
    partitions_ = pa.array(within, SINK_SCHEMA.field("kafka_partition").type)
    lows = pa.array([it.low for it in within.values()], pa.int64())
    low = lows.take(pc.index_in(rows["kafka_partition"], partitions_))
    is_held = pc.fill_null(pc.greater_equal(rows["kafka_offset"], low), False)
    return rows.filter(pc.or_(pc.greater_equal(rows["agent_timestamp"], pa.scalar(oldest)), is_held))


def _rows_of_results(systems: Systems[RidesSettings], claims: list[Claim], done: Reindexed) -> Iterator[pa.RecordBatch]:
    config, topic = systems.config, systems.settings.result_topic
    with translate_broker_errors(config, f"reading {topic}"), open_consumer(config, "reindex") as client:
        for messages in scan(client, topic, claims, systems.progress, "reading"):
            rows, _ = flatten(make_message_batch(messages), messages[0].partition())
            done.results += len(rows)
            yield rows


def _joined(batches: Iterable[pa.RecordBatch], least: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at least `least` rows, the last one excepted."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= least:
            yield pa.concat_batches(waiting)
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)
