"""Runs the work of a sink or of its peer: `python -m benchmarks.sinks WORK JOB`."""

from __future__ import annotations

import http.client
import sys
import urllib.parse
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

# Not used here, but every task imports it: it is part of the memory, and it imports airflow/config.
import airflow.sdk  # noqa: F401
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from elasticsearch import Elasticsearch

from benchmarks.measured import answer, measured
from jobs.clients import make_storage_client
from jobs.files import Folder, read_chunk
from jobs.kafka.claim import Limits, claim
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.stage import stage
from jobs.kafka.staged import Chunk, read_manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.parallel import prefetch
from jobs.rides.export import put_gcs
from jobs.rides.index import put_elasticsearch
from jobs.rides.transform import REPETITIVE, make_documents, transform
from jobs.rides.vertical import RidesSettings
from jobs.settings import Settings
from jobs.sinks import elasticsearch as sink
from jobs.sinks import parquet


class Job(msgspec.Struct, frozen=True):
    """The input of one pass. `staged` and `transformed` are URLs of manifests; `name` is unique for each pass."""

    settings: dict[str, Any]
    topic: str
    folder: str
    name: str = ""
    staged: str = ""
    transformed: str = ""

    @property
    def rides_settings(self) -> RidesSettings:
        return RidesSettings(_env_file=None, **self.settings)

    @property
    def staging(self) -> Folder:
        return Folder(Path(self.folder).as_uri())


def prepare(job: Job) -> list[str]:
    """Stage and transform all results of the topic. Returns the URLs of both manifests, and the number of rows."""
    config = {"bootstrap.servers": job.rides_settings.bootstrap_servers}
    defaults = Settings.model_construct()
    limits = Limits(sys.maxsize, defaults.chunk_records, defaults.chunk_bytes)
    with measured():
        with open_group_reader(config, job.topic, "benchmark-sinks") as reader:
            claimed = claim(config, reader, limits, topic_ids=TopicIds(job.staging), has_output=lambda _: False)
            staged_url, staged = stage(config, reader, claimed, job.staging.child("staged"))
        url, transformed = transform(staged, job.staging.child("transformed"))
    return [staged_url, url, str(transformed.records)]


def put(job: Job) -> None:
    """PutElasticSearch's work."""
    staged, transformed = read_manifest(job.staged), read_manifest(job.transformed)
    client = Elasticsearch(job.rides_settings.es_url)
    with measured():
        put_elasticsearch(client, job.name, staged, transformed, job.staging.child(job.name))


def put_bare(job: Job) -> None:
    """Send the same documents in prepared requests of the same size, with the same number of threads."""
    bodies = []
    for chunk in read_manifest(job.transformed).chunks:
        rows = read_chunk(chunk.url)
        lines = sink.make_bulk_lines(
            rows.column("ride_id"), rows.column("kafka_offset"), make_documents(rows)
        ).to_pylist()
        size = sink._DOCUMENTS_PER_REQUEST
        bodies += ["".join(lines[start : start + size]).encode() for start in range(0, len(lines), size)]
    address = urllib.parse.urlsplit(job.rides_settings.es_url).netloc

    def send(mine: list[bytes]) -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        for body in mine:
            headers = {"content-type": "application/x-ndjson"}
            connection.request("POST", f"/{job.name}/_bulk?filter_path=errors", body, headers)
            reply = connection.getresponse().read()
            if reply != b'{"errors":false}':
                raise RuntimeError(f"Elasticsearch rejected a request: {reply[:500]!r}")

    count = sink._PARALLEL_REQUESTS
    with measured(), ThreadPoolExecutor(count) as pool:
        list(pool.map(send, [bodies[first::count] for first in range(count)]))


class Stored(NamedTuple):
    """The size of an object that was not kept."""

    rows: int
    size: int


class BottomlessBucket:
    """A bucket that keeps only the sizes of its objects."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}

    def exists(self, **_: Any) -> bool:
        return True

    def blob(self, name: str) -> Any:
        def upload(data: bytes, *_: Any, **__: Any) -> None:
            self.objects[name] = Stored(pq.read_metadata(pa.BufferReader(data)).num_rows, len(data))

        return SimpleNamespace(upload_from_string=upload)


class NoStorage:
    """A fake Cloud Storage client for PutGCP without a server, to measure the cost of the client side only."""

    _connection = SimpleNamespace(API_BASE_URL="nowhere")

    def __init__(self) -> None:
        self._bucket = BottomlessBucket()

    def bucket(self, _: str) -> BottomlessBucket:
        return self._bucket

    @property
    def objects(self) -> Collection[Stored]:
        """The Parquet objects that were written."""
        return self._bucket.objects.values()

    @property
    def rows(self) -> int:
        """The number of rows in all objects."""
        return sum(stored.rows for stored in self.objects)


def export(job: Job) -> None:
    """PutGCP's work, with the emulator."""
    staged = read_manifest(job.staged)
    client = make_storage_client(job.rides_settings)
    with measured():
        put_gcs(client, job.rides_settings.bucket, job.name, staged)


def export_to_nowhere(job: Job) -> int:
    """PutGCP's work, without a server. Returns the number of rows in the objects."""
    staged = read_manifest(job.staged)
    client = NoStorage()
    with measured():
        put_gcs(client, "nowhere", job.name, staged)
    return client.rows


def write_rows(job: Job) -> int:
    """PutGCP's work after reading the rows into memory. Returns the number of rows in the objects."""
    transformed = read_manifest(job.transformed)
    ready = [(chunk, read_chunk(chunk.url)) for chunk in transformed.chunks]
    client = NoStorage()

    def write(part: tuple[Chunk, pa.RecordBatch]) -> None:
        chunk, rows = part
        parquet.export(
            client, "nowhere", rows, partial(parquet.name_object, job.name, transformed.topic, chunk), REPETITIVE
        )

    with measured():
        list(prefetch(write, ready, ahead=2))  # as put_gcs does
    return client.rows


def write_table(job: Job) -> None:
    """Write the same rows from memory to one local file with pyarrow and the same options."""
    _write_table(job, parquet.WRITE_OPTIONS | {"use_dictionary": list(REPETITIVE)})


def write_table_with_defaults(job: Job) -> None:
    """Write them with pyarrow's defaults: Snappy, and a dictionary for each column."""
    _write_table(job, {})


def _write_table(job: Job, options: Mapping[str, Any]) -> None:
    chunks = read_manifest(job.transformed).chunks
    table = pa.Table.from_batches([read_chunk(chunk.url) for chunk in chunks])
    with measured():
        pq.write_table(table, Path(job.folder) / f"{job.name}.parquet", **options)


WORK: dict[str, Callable[[Job], Any]] = {
    function.__name__: function
    for function in (
        prepare,
        put,
        put_bare,
        write_rows,
        export_to_nowhere,
        export,
        write_table,
        write_table_with_defaults,
    )
}

if __name__ == "__main__":
    answer(WORK[sys.argv[1]](msgspec.json.decode(sys.argv[2], type=Job)))
