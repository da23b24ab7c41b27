"""Export results to Cloud Storage as Parquet with Spark: the rows and hour folders of PutGCP (jobs/rides/export.py).

Spark decides which offsets a batch has, and writes that to its checkpoint first. A task reads the range of one
partition and writes one object for each hour. The name of an object holds the range, so a batch that Spark repeats
writes the same objects again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from google.cloud import storage
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession

from jobs.clients import make_kafka_config, make_storage_client
from jobs.errors import ConfigurationError, DatastreamError, OffsetsError
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.offsets import list_partitions, read_bounds, read_topic_id
from jobs.kafka.staged import Chunk
from jobs.rides.export import put_rows
from jobs.rides.spark.source import make_messages, make_options
from jobs.rides.spark.vertical import EXPORT_GROUP, SparkSettings
from jobs.rides.transform import flatten
from jobs.sinks.parquet import check_bucket, holds_objects, join
from jobs.spark.checkpoint import check_position, find_last_batch
from jobs.spark.failure import find_cause

# Raised when the same messages become other rows, so that a checkpoint is not continued with other rows.
CONTRACT_VERSION = 1
# The most invalid messages of a partition and a batch that are named. All are counted.
NAMED_FAULTS = 100
# What a task reports to the driver, for Arrow and for Spark.
REPORT_SCHEMA = pa.schema(
    [("rows", pa.int64()), ("objects", pa.int64()), ("invalid", pa.int64()), ("faults", pa.list_(pa.string()))]
)
REPORT = "rows long, objects long, invalid long, faults array<string>"
_REMEDY = "Run it again: it repeats the last batch and writes the same objects."


class InvalidResultsError(DatastreamError):
    """A topic holds messages that are not results. The batch with them was not committed."""


class Exported(msgspec.Struct, frozen=True):
    """The number of rows and objects written, and of invalid messages, some of which `faults` names."""

    rows: int = 0
    objects: int = 0
    invalid: int = 0
    faults: tuple[str, ...] = ()

    def __add__(self, other: Exported) -> Exported:
        return Exported(
            self.rows + other.rows,
            self.objects + other.objects,
            self.invalid + other.invalid,
            self.faults + other.faults,
        )


class Writer(msgspec.Struct, frozen=True):
    """What each task of a batch does.

    Attributes:
        connect: makes a client of Cloud Storage.
        skip_invalid: write the results of a partition that also has invalid messages.
    """

    topic: str
    bucket: str
    prefix: str
    connect: Callable[[], storage.Client]
    skip_invalid: bool

    def write_rows(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """For `mapInArrow`: write the results of one partition's range.

        It holds the rows of the whole range, about 150 bytes each.

        Yields:
            One row of REPORT_SCHEMA; nothing if there are no messages.

        Raises:
            ConfigurationError, ServiceUnavailableError: not all objects were written; it is safe to try again.
            ValueError: the messages are of several partitions.
        """
        filled = (batch for batch in batches if len(batch))
        head = next(filled, None)
        if head is None:
            return
        partition, first = (head.column(name)[0].as_py() for name in ("partition", "offset"))
        kept: list[pa.RecordBatch] = []
        invalid, faults = 0, list[str]()
        for batch in chain([head], filled):
            if not pc.all(pc.equal(batch.column("partition"), partition)).as_py():
                raise ValueError(f"{self.topic}[{partition}]: a task got messages of other partitions, too")
            last = batch.column("offset")[-1].as_py()
            rows, rejects = flatten(make_messages(batch), partition)
            kept.append(rows)
            invalid += len(rejects)
            faults += self._name_faults(partition, rejects.slice(0, NAMED_FAULTS - len(faults)))
        names: list[str] = []
        rows = pa.concat_batches(kept)
        if self.skip_invalid or not invalid:
            chunk = Chunk(partition, first, last, len(rows), size=0, url="")
            names = put_rows(self.connect(), self.bucket, self.prefix, topic=self.topic, chunk=chunk, rows=rows)
        report = {"rows": len(rows), "objects": len(names), "invalid": invalid, "faults": faults}
        yield pa.RecordBatch.from_pylist([report], REPORT_SCHEMA)

    def _name_faults(self, partition: int, rejects: pa.RecordBatch) -> Iterator[str]:
        for offset, message in zip(*(rejects.column(name).to_pylist() for name in ("offset", "message")), strict=True):
            yield f"{self.topic}[{partition}]@{offset}: {message}"


class Export:
    """The export of one topic under one prefix.

    Args:
        skip_invalid: leave out invalid messages; without it, a batch with invalid messages fails.
        on_batch: called after each batch with its number.

    Raises:
        ConfigurationError: there is no such topic or bucket, or the prefix and that of PutGCP overlap.
        ServiceUnavailableError: Kafka or Cloud Storage does not answer.
    """

    def __init__(
        self,
        settings: SparkSettings,
        topic: str,
        *,
        skip_invalid: bool = False,
        on_batch: Callable[[int, Exported], object] = lambda *_: None,
    ) -> None:
        self.topic = topic
        self.total = Exported()
        self._settings = settings
        self._skip_invalid = skip_invalid
        self._on_batch = on_batch
        self._failure: Exception | None = None
        self._config = make_kafka_config(settings)
        check_prefixes(settings.spark_export_prefix, settings.gcs_prefix)
        check_bucket(self._client, settings.bucket)
        with translate_broker_errors(self._config, f"reading the offsets of {topic}"):
            with open_consumer(self._config, EXPORT_GROUP) as client:
                self._bounds = read_bounds(self._config, client, topic, list_partitions(client, topic))
            self._topic_id = read_topic_id(self._config, topic)

    @property
    def folder(self) -> Path:
        """The folder with the checkpoint."""
        return self._settings.checkpoints / f"export-{self.topic}"

    @property
    def job(self) -> Mapping[str, object]:
        """What must stay the same for the export to continue (`jobs.spark.checkpoint.open_checkpoint`)."""
        return {
            "topic": self.topic,
            "topic_id": self._topic_id,
            "bucket": self._settings.bucket,
            "prefix": self._prefix,
            "contract": CONTRACT_VERSION,
        }

    def check_start(self, checkpoint: Path) -> None:
        """Check that the export continues where it was, or that it is new and the prefix is empty.

        Raises:
            OffsetsError: rows would be missing or doubled under the prefix.
        """
        first = {partition: bound.low for partition, bound in self._bounds.items()}
        check_position(
            checkpoint, self.topic, first, {partition: bound.end for partition, bound in self._bounds.items()}
        )
        is_new = find_last_batch(checkpoint) is None
        if is_new and holds_objects(self._client, self._settings.bucket, self._prefix):
            raise OffsetsError(
                f"{self.uri} holds objects, but not those of an export with the checkpoint {checkpoint.parent}: this "
                "one would write rows a second time. Restore that folder, delete the objects, or set "
                "SPARK_EXPORT_PREFIX to a prefix without objects."
            )

    def run(self, spark: SparkSession, checkpoint: Path) -> Exported:
        """Export all messages that the topic has now, batch by batch.

        Raises:
            InvalidResultsError: a batch has invalid messages; it was not committed.
            ConfigurationError, ServiceUnavailableError: a batch was not written; it is safe to try again.
        """
        source = spark.readStream.format("kafka").options(
            **make_options(self._config),
            subscribe=self.topic,
            startingOffsets="earliest",
            maxOffsetsPerTrigger=self._settings.spark_max_batch,
        )
        writer = source.load().writeStream.queryName(f"export-{self.topic}")
        query = writer.option("checkpointLocation", checkpoint.as_uri()).trigger(availableNow=True)
        try:
            query.foreachBatch(self.export_batch).start().awaitTermination()
        except StreamingQueryException as error:
            raise find_cause(self._failure or error, _REMEDY) from error
        return self.total

    def export_batch(self, messages: DataFrame, batch: int) -> None:
        """Export a batch. Spark calls it again with the same messages if it did not end."""
        try:
            exported = self._export(messages, batch)
        except Exception as error:
            self._failure = error  # Spark only keeps its text
            raise
        self.total += exported
        self._on_batch(batch, exported)

    def _export(self, messages: DataFrame, batch: int) -> Exported:
        connect = partial(make_storage_client, self._settings)
        writer = Writer(self.topic, self._settings.bucket, self._prefix, connect, self._skip_invalid)
        exported = Exported()
        for report in messages.mapInArrow(writer.write_rows, REPORT).collect():
            exported += Exported(report.rows, report.objects, report.invalid, tuple(report.faults))
        if exported.invalid and not self._skip_invalid:
            raise InvalidResultsError(
                f"{exported.invalid:,} messages of {self.topic} are not valid results:\n"
                f"{describe_faults(exported)}\nBatch {batch} was not committed, and the next run repeats it. To leave "
                "them out, as dag_index_and_export does, add --skip-invalid. They stay in the topic."
            )
        return exported

    @property
    def uri(self) -> str:
        return f"gs://{self._settings.bucket}/{self._prefix}"

    @property
    def _prefix(self) -> str:
        return join(self._settings.spark_export_prefix, "")

    @cached_property
    def _client(self) -> storage.Client:
        return make_storage_client(self._settings)


def check_prefixes(own: str, other: str) -> None:
    """Check that neither of the prefixes of this export and of PutGCP is below the other: BigQuery would read both.

    Raises:
        ConfigurationError
    """
    shorter, longer = sorted((join(own, ""), join(other, "")), key=len)
    if longer.startswith(shorter):
        raise ConfigurationError(
            f"SPARK_EXPORT_PREFIX={own!r} and GCS_PREFIX={other!r} overlap: BigQuery would read each ride twice. "
            "Set one of them to another prefix."
        )


def describe_faults(exported: Exported) -> str:
    """A line for each named fault, and one with the number of the others."""
    others = exported.invalid - len(exported.faults)
    return "\n".join([*exported.faults, *([f"and {others:,} others"] if others else [])])
