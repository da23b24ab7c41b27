"""PutGCP's work: staged rows into Parquet objects, by the hour of the ride."""

from __future__ import annotations

from functools import partial

from google.cloud import storage

from jobs.sinks.parquet import check_bucket, export, object_name
from jobs.staging import Manifest, prefetched, read_chunk


def put_gcs(client: storage.Client, bucket: str, prefix: str, transformed: Manifest) -> list[str]:
    """Write transformed rows as Parquet objects; their names."""
    check_bucket(client, bucket)
    names = []
    for chunk, rows in prefetched(lambda chunk: read_chunk(chunk.url), transformed.chunks):
        names += export(client, bucket, rows, partial(object_name, prefix, transformed.topic, chunk))
    return names
