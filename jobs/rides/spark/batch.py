"""Price the claim of a manifest with Spark, for PublishKafka.

Each task reads one range of offsets, writes its chunk files and returns a row for each. The new manifest names only the
files of those rows, so files of a task that failed or ran twice are never published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JError
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.errors import ServiceUnavailableError
from jobs.files import Folder
from jobs.kafka.client import REQUEST_TIMEOUT_S, Config, translate_broker_errors
from jobs.kafka.offsets import read_topic_id
from jobs.kafka.stage import cut_chunks
from jobs.kafka.staged import OUTCOME_SCHEMA, Chunk, Manifest, read_manifest
from jobs.rides.distance import find_distance_function
from jobs.rides.pricing import price
from jobs.rides.spark.driver import Batch
from jobs.rides.spark.source import make_messages, make_options, make_range_options
from jobs.spark.failure import describe

_CHUNK_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("records", pa.int64()),
        ("size", pa.int64()),
        ("url", pa.string()),
        ("oldest", pa.int64()),
    ]
)
_CHUNK_COLUMNS = "partition int, first bigint, last bigint, records bigint, size bigint, url string, oldest bigint"
_MESSAGE_COLUMNS = ("partition", "offset", "timestamp", "key", "value", "headers")


class Work(msgspec.Struct, frozen=True):
    """What each task needs to know."""

    folder: str
    distance_method: str
    chunk_records: int
    chunk_bytes: int


def price_claim(
    spark: SparkSession, config: Config, manifest: Manifest, distance_method: str, folder: Folder
) -> tuple[str, Manifest]:
    """Price the messages of a manifest's claim.

    Args:
        folder: for the files; each try of ComputeCostTravel has its own.

    Returns:
        URL and content of a manifest whose chunks hold outcomes (`jobs.kafka.staged.OUTCOME_SCHEMA`), cut as
        ConsumeKafka would cut the messages.

    Raises:
        ConfigurationError: Spark's Kafka source cannot take a setting of the connection.
        OffsetsError: the topic was recreated since the claim.
        ServiceUnavailableError: Spark or a broker failed.
    """
    with translate_broker_errors(config, f"reading {manifest.topic}"):
        manifest.check_topic(read_topic_id(config, manifest.topic))
    chunks: list[Chunk] = []
    if not manifest.is_empty:
        work = Work(folder.url, distance_method, manifest.chunk_records, manifest.chunk_bytes)
        chunks = _run(spark, config, manifest, work)
    priced = msgspec.structs.replace(manifest, chunks=tuple(chunks), is_staged=True)
    return folder.write_manifest(priced), priced


def _run(spark: SparkSession, config: Config, manifest: Manifest, work: Work) -> list[Chunk]:
    """Price and stage the messages; returns the chunks in the order of their offsets."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return price_partition(batches, work)

    messages = spark.read.format("kafka").options(
        **make_options(config),
        **make_range_options(manifest.topic, manifest.claims),
        **{"kafkaConsumer.pollTimeoutMs": str(int(REQUEST_TIMEOUT_S * 1000))},
    )
    with _translate_errors(manifest.topic):
        rows = messages.load().select(*_MESSAGE_COLUMNS).mapInArrow(run, _CHUNK_COLUMNS).collect()
    chunks = [Chunk(**row.asDict()) for row in rows]
    return sorted(chunks, key=lambda chunk: (chunk.partition, chunk.first))


def price_partition(batches: Iterable[pa.RecordBatch], work: Work) -> Iterator[pa.RecordBatch]:
    """A task's work: price the messages of one range of offsets and write its chunks.

    Args:
        batches: rows of Spark's Kafka source, all of one partition and in the order of their offsets.

    Yields:
        A batch with one row for each chunk.
    """
    distance = find_distance_function(work.distance_method)
    folder = Folder(work.folder).child(str(TaskContext.get().taskAttemptId()))
    filled = (batch for batch in batches if len(batch))
    if (first := next(filled, None)) is None:
        return  # only transaction markers and aborted messages
    partition = first.column("partition")[0].as_py()
    messages = (_select(rows, partition) for rows in chain([first], filled))
    for cut in cut_chunks(messages, work.chunk_records, work.chunk_bytes):
        priced = (price(part, distance) for part in cut.batches)
        chunk = cut.make_chunk(partition, folder.write_chunk(partition, cut.first, priced, OUTCOME_SCHEMA))
        yield pa.RecordBatch.from_pylist([msgspec.structs.asdict(chunk)], _CHUNK_SCHEMA)


def _select(rows: pa.RecordBatch, partition: int) -> pa.RecordBatch:
    if not pc.all(pc.equal(rows.column("partition"), partition)).as_py():
        raise ValueError(
            f"a task for partition {partition} got messages of other partitions: its chunks would be mixed"
        )
    return make_messages(rows)


@contextmanager
def _translate_errors(topic: str) -> Iterator[None]:
    try:
        yield
    except (Py4JError, PySparkException, OSError) as error:
        raise ServiceUnavailableError(
            f"Spark could not price {topic}. Nothing was committed. {describe(error)}"
        ) from error


class SparkEngine:
    """Prices the driver's batches in one session (see `jobs.rides.spark.driver.Engine`)."""

    def __init__(self, spark: SparkSession, config: Config) -> None:
        self._spark = spark
        self._config = config
        self._group = ""

    def price(self, batch: Batch) -> str:
        """Price the claim of a manifest that is not staged; returns the URL of the manifest with the outcomes.

        Raises:
            StagedFilesGoneError: the manifest was deleted: its work is already committed.
            ConfigurationError, OffsetsError, ServiceUnavailableError: as for `price_claim`.
        """
        self._group = str(uuid4())
        self._spark.sparkContext.setJobGroup(self._group, batch.manifest, interruptOnCancel=True)
        manifest = read_manifest(batch.manifest)
        folder = Folder(batch.folder)
        return price_claim(self._spark, self._config, manifest, batch.distance_method, folder)[0]

    def describe_progress(self) -> str:
        """How many partitions are done."""
        tracker = self._spark.sparkContext.statusTracker()
        try:
            jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(self._group)]
            stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
        except (Py4JError, OSError):
            return "Spark does not answer"
        done = sum(stage.numCompletedTasks for stage in stages if stage)
        total = sum(stage.numTasks for stage in stages if stage)
        return f"priced {done} of {total} partitions" if total else "starting a job"

    def cancel(self) -> None:
        """Cancel the job of `price`, if it has begun."""
        self._spark.sparkContext.cancelJobGroup(self._group)

    def is_alive(self) -> bool:
        """Whether Java runs and its context is not stopped."""
        try:
            context: Any = self._spark.sparkContext._jsc
            return not context.sc().isStopped()
        except Exception:
            return False
