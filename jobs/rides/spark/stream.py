"""The stream: rides_raw to results and dead letters, exactly once, on as many executors as there are partitions.

Spark decides which offsets a batch has, and writes that to its checkpoint first. The tasks publish (publish.py), and
their offsets are committed to a consumer group. So the group is the authority on what is done, and the checkpoint on
what comes next: a batch that Spark repeats, or that begins behind the group, publishes only what the group has not
passed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from jobs.errors import ConfigurationError
from jobs.kafka.claim import choose_starting_offsets, holds_dead_letters, holds_results
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.engine import check_engine, check_topic_ids
from jobs.kafka.offsets import (
    Committed,
    list_partitions,
    open_group_reader,
    read_bounds,
    read_topic_id,
)
from jobs.kafka.publish import Outlet
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.rides.spark.publish import NEW_QUERY, REPORT, Publisher, Range, check_start
from jobs.rides.spark.source import make_options
from jobs.rides.spark.vertical import SparkSettings
from jobs.rides.vertical import COMPUTE_GROUP
from jobs.settings import check_distinct
from jobs.spark.checkpoint import check_position, read_ends, read_first_offsets

# Raised when what the same messages become changes, so that a checkpoint is not continued with other results.
CONTRACT_VERSION = 1
TASK_ID = "spark_enrich"


@dataclass(frozen=True)
class Counts:
    """What a batch did."""

    batch: int
    results: int
    rejects: int


class Stream:
    """The stream that runs as one consumer group.

    Args:
        group: STREAM_GROUP, on topics of its own; or COMPUTE_GROUP, if Spark owns it.
        checkpoint: Spark's folder; it belongs to this stream only.
        on_batch: called after each batch.

    Raises:
        ServiceUnavailableError: a broker is down.
    """

    def __init__(
        self, settings: SparkSettings, config: dict[str, str], group: str, checkpoint: Path,
        on_batch: Callable[[Counts], object] = lambda _: None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.config = config
        self.group = group
        self.topic = settings.raw_topic
        self.checkpoint = checkpoint
        self.outlet = Outlet(*settings.find_output(group), dag_id=group, task_id=TASK_ID, stage="TRANSFORMATION")
        self.failure: Exception | None = None
        self._on_batch = on_batch
        check_distinct(self.topic, self.outlet.result_topic, self.outlet.dlq_topic)
        with translate_broker_errors(config, f"reading the id of {self.topic}"):
            self.topic_id = read_topic_id(config, self.topic)

    @property
    def job(self) -> Mapping[str, object]:
        """What must stay the same for a query to continue (`jobs.spark.checkpoint.open_checkpoint`)."""
        return {
            "group": self.group,
            "topic": self.topic,
            "topic_id": self.topic_id,
            "result_topic": self.outlet.result_topic,
            "dlq_topic": self.outlet.dlq_topic,
            "contract": CONTRACT_VERSION,
        }

    def check_position(self) -> None:
        """Check that the topic still has what the query reads next, before Spark is started.

        Raises:
            ConfigurationError: the topic does not exist.
            OffsetsError: retention has deleted messages that the stream has not read.
            ServiceUnavailableError: a broker is down.
        """
        with (
            translate_broker_errors(self.config, f"reading the offsets of {self.topic}"),
            open_consumer(self.config, self.group) as client,
        ):
            bounds = read_bounds(self.config, client, self.topic, list_partitions(client, self.topic))
        lows, ends = ({p: getattr(bound, name) for p, bound in bounds.items()} for name in ("low", "end"))
        check_position(self.checkpoint, self.topic, lows, ends, NEW_QUERY)

    def start(self, spark: SparkSession, *, once: bool = False) -> StreamingQuery:
        """Take the group over, then start the query: at the checkpoint, or at the group's offsets if it is new.

        Args:
            once: end when all messages that the topic has now are published.

        Raises:
            ConfigurationError: the other engine owns the group, or a topic does not exist.
            OffsetsError: the group has lost its offsets, or another client commits with its id.
            ServiceUnavailableError: a broker is down.
        """
        offsets = self._take_over()
        source = spark.readStream.format("kafka").options(
            **make_options(self.config),
            subscribe=self.topic,
            startingOffsets=json.dumps({self.topic: {str(partition): offset for partition, offset in offsets.items()}}),
            maxOffsetsPerTrigger=self.settings.spark_max_batch,
        )
        writer = source.load().writeStream.queryName(self.group).option("checkpointLocation", self.checkpoint.as_uri())
        trigger = {"availableNow": True} if once else {"processingTime": f"{self.settings.spark_trigger_s:g} seconds"}
        return writer.trigger(**trigger).foreachBatch(self.process).start()

    def process(self, messages: DataFrame, batch: int) -> None:
        """Publish a batch. Spark calls it again with the same messages if it did not end."""
        try:
            counts = self._publish(messages, batch)
        except Exception as error:
            self.failure = error  # Spark keeps only its text
            raise
        self._on_batch(counts)

    def _publish(self, messages: DataFrame, batch: int) -> Counts:
        ranges = self.read_ranges(batch)
        committed = self._read_committed()
        for partition, (start, _) in ranges.items():
            check_start(self.topic, self.group, partition, start, committed[partition].offset)
        check_tasks(messages, ranges)
        publisher = Publisher(
            self.config, self.group, self.topic, self.topic_id, self.outlet, self.settings.distance_method, ranges
        )
        reports = messages.mapInArrow(publisher.publish_rows, REPORT).collect()
        empty = [
            partition
            for partition in ranges.keys() - {report.partition for report in reports}
            if (committed[partition].offset or 0) < ranges[partition].end
        ]
        for partition in empty:
            publisher.commit_end(partition)
        results, rejects = (sum(report[name] for report in reports) for name in ("results", "rejects"))
        return Counts(batch, results, rejects)

    def read_ranges(self, batch: int) -> dict[int, Range]:
        """The offsets of a batch, from the checkpoint."""
        ends = read_ends(self.checkpoint, batch, self.topic)
        if batch:
            starts = read_ends(self.checkpoint, batch - 1, self.topic)
        else:
            starts = read_first_offsets(self.checkpoint, self.topic)
        return {partition: Range(starts.get(partition), end) for partition, end in ends.items()}

    def _read_committed(self) -> dict[int, Committed]:
        """The group's offsets. Waits for the markers of the last batch, without which they are those before it."""
        with (
            translate_broker_errors(self.config, f"reading the offsets of {self.group}"),
            open_group_reader(self.config, self.topic, self.group) as reader,
        ):
            offsets = reader.read_committed()
        check_engine(self.topic, self.group, offsets, "spark")
        return offsets

    def _take_over(self) -> dict[int, int]:
        """Fence the tasks of an earlier stream, and commit the group's offsets again, because Kafka deletes old ones.

        A group without offsets begins at the first messages.
        """
        with (
            translate_broker_errors(self.config, f"reading {self.topic}"),
            open_consumer(self.config, self.group) as client,
        ):
            committed: dict[int, Committed] = {}
            for partition in list_partitions(client, self.topic):
                # Its init_transactions ends what a killed task has left open; reading would wait for that.
                with self._open_writer(partition) as writer:
                    writer.check_topics(self.outlet.result_topic, self.outlet.dlq_topic)
                    committed |= writer.read_committed()
            bounds = read_bounds(self.config, client, self.topic, list(committed))
            check_topic_ids(self.topic, self.group, committed, self.topic_id)
            is_new = all(position.offset is None for position in committed.values())
            if is_new and self.group == COMPUTE_GROUP:
                raise ConfigurationError(
                    f"Group {self.group} has no offsets on {self.topic} yet, and belongs to the DAG. Let {self.group} "
                    "price a ride first, then `make engine TO=spark`."
                )
            has_output = is_new and (
                holds_results(self.config, client, self.outlet.result_topic)
                or holds_dead_letters(self.config, client, self.outlet.dlq_topic, self.topic, self.group)
            )
        starts = choose_starting_offsets(self.topic, self.group, committed, bounds, has_output=has_output)
        offsets = {}
        for partition, start in starts.items():
            with self._open_writer(partition) as writer:
                offset = writer.read_offsets()[partition]
                offsets[partition] = start if offset is None else offset
                with writer.transaction({partition: offsets[partition]}):
                    pass
        return offsets

    def _open_writer(self, partition: int) -> AbstractContextManager[GroupWriter]:
        return open_group_writer(self.config, self.group, self.topic, 1, partition=partition)


def check_tasks(messages: DataFrame, ranges: Mapping[int, Range]) -> None:
    """Check that each task has a whole range.

    Raises:
        ConfigurationError: Spark splits ranges (minPartitions, maxRecordsPerPartition): of two tasks for one partition,
            the second would find its messages covered by the first one's offset.
    """
    tasks, most = messages.rdd.getNumPartitions(), sum(end > (start or 0) for start, end in ranges.values())
    if tasks > most:
        raise ConfigurationError(
            f"Spark has made {tasks} tasks of {most} ranges of offsets. The stream needs whole ranges: remove "
            "minPartitions and maxRecordsPerPartition. Nothing was done."
        )
