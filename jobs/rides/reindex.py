"""Rebuilding the Elasticsearch index from Parquet, id for id: the same documents under the same versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
import pyarrow as pa
from elasticsearch import Elasticsearch
from google.cloud import storage

from jobs.rides.index import TEMPLATE
from jobs.rides.transform import SINK_SCHEMA, documents
from jobs.settings import Settings
from jobs.sinks.elasticsearch import actions, apply_template, bulk, explained
from jobs.sinks.parquet import check_bucket, objects, read_rows
from jobs.staging import prefetched

# Objects are read side by side; a bulk is of so many rows or more, since many objects hold a few hundred only.
_READ_AHEAD = 8
_BULK_ROWS = 50_000


class Reindexed(msgspec.Struct):
    """How many objects and rows were read, how many rows were refused (and why the first one), what the index holds."""

    objects: int = 0
    rows: int = 0
    refused: int = 0
    refusal: str = ""
    documents: int = 0


def reindex(
    settings: Settings, elasticsearch: Elasticsearch, gcs: storage.Client, progress: Callable[[int, int], object]
) -> Reindexed:
    """Index every row of every object under the prefix; makes the index by its template if there is none.

    A row's version is its Kafka offset, so the newest row of a ride stays, in whatever order they come, and what
    dag_index_and_export writes meanwhile.

    Args:
        elasticsearch: may apply the template and write.
        progress: told how many objects are read, and how many there are.

    Raises:
        ConfigurationError: an object is not of this pipeline, or the index holds another mapping.
        ServiceUnavailableError: not all is indexed; doing it again is harmless.
    """
    index = settings.rides_index
    apply_template(elasticsearch, index, TEMPLATE)
    check_bucket(gcs, settings.bucket)
    done = Reindexed()
    blobs = objects(gcs, settings.bucket, settings.gcs_prefix)

    def read() -> Iterator[pa.RecordBatch]:
        for _, rows in prefetched(lambda blob: read_rows(blob, SINK_SCHEMA), blobs, ahead=_READ_AHEAD):
            yield rows
            done.objects += 1
            progress(done.objects, len(blobs))

    progress(0, len(blobs))
    for rows in _joined(read(), _BULK_ROWS):
        refusals = bulk(elasticsearch, index, actions(rows["ride_id"], rows["kafka_offset"], documents(rows)))
        done.rows += len(rows)
        done.refused += len(refusals)
        done.refusal = done.refusal or next(iter(refusals.values()), "")
    with explained(elasticsearch, f"counting {index}"):
        elasticsearch.indices.refresh(index=index, ignore_unavailable=True)
        done.documents = elasticsearch.count(index=index, ignore_unavailable=True)["count"]
    return done


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
