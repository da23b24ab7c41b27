"""What a task of the stream does: price the messages of one partition and publish them, exactly once.

Spark may run a task twice, at the same time too (a retry, a speculative task, an executor that was thought dead). Each
task owns one partition of RAW_TOPIC in a batch. The transactional id is the same for every task of the partition: a
newer task fences every older one, and then finds what that one has committed. A transaction holds the results and dead
letters of one Arrow batch and the group's offset after it. So it is short, however long Spark takes to read the range.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import OffsetsError
from jobs.kafka.dead_letter import Origin
from jobs.kafka.publish import Outlet, Published, send_outcomes
from jobs.kafka.transaction import open_group_writer
from jobs.rides.distance import find_distance_function
from jobs.rides.pricing import price
from jobs.rides.spark.source import BATCH_RECORDS, make_messages
from jobs.rides.vertical import DistanceMethod

NEW_QUERY = (
    "To start a new query at the group's offsets, delete the checkpoint: rm -r the folder spark/<group> below "
    "DATASTREAM_STATE. In Docker: docker compose --profile spark rm -sf spark-stream, then docker volume rm "
    "<project>_spark-state."
)
# What a task reports to the driver, for Arrow and for Spark.
REPORT_SCHEMA = pa.schema([("partition", pa.int32()), ("results", pa.int64()), ("rejects", pa.int64())])
REPORT = "partition int, results long, rejects long"


class Range(NamedTuple):
    """The offsets [start, end) of a partition in a batch; `start` is None for a partition that is new."""

    start: int | None
    end: int


class Publisher(msgspec.Struct, frozen=True):
    """What each task of a batch does.

    Attributes:
        group: the group whose offsets the tasks commit.
        topic, topic_id: the source topic.
        ranges: the batch, by partition.
    """

    config: dict[str, str]
    group: str
    topic: str
    topic_id: str
    outlet: Outlet
    distance: DistanceMethod
    ranges: dict[int, Range]

    def publish_rows(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """For `mapInArrow`: price and publish the messages of one partition.

        Yields:
            One row of REPORT_SCHEMA; nothing if there are no messages.

        Raises:
            ConfigurationError: the other engine owns the group.
            OffsetsError: the group is not where the batch continues.
            ServiceUnavailableError: a broker is down, or a newer task has taken over.
        """
        filled = (rows for rows in batches if len(rows))
        first = next(filled, None)
        if first is None:
            return
        partition = first.column("partition")[0].as_py()
        published = self._publish(partition, chain([first], filled))
        for _ in batches:  # Spark uses a worker again only if it has read all of its input
            pass
        report = {"partition": partition, "results": published.results, "rejects": published.rejects.total()}
        yield pa.RecordBatch.from_pylist([report], REPORT_SCHEMA)

    def commit_end(self, partition: int) -> None:
        """Commit the end of a partition whose range has no message, but markers or aborted messages.

        Raises:
            ConfigurationError, OffsetsError, ServiceUnavailableError: as for `publish_rows`.
        """
        self._publish(partition, iter(()))

    def _publish(self, partition: int, batches: Iterator[pa.RecordBatch]) -> Published:
        published = Published()
        distance = find_distance_function(self.distance)
        start, end = self.ranges[partition]
        with open_group_writer(self.config, self.group, self.topic, BATCH_RECORDS, partition=partition) as writer:
            committed = writer.read_committed()[partition].offset
            check_start(self.topic, self.group, partition, start, committed)
            if writer.topic_id != self.topic_id:
                raise OffsetsError(f"{self.topic} was recreated while the stream was running. Nothing was committed.")
            if committed is not None and committed >= end:
                return published  # an earlier try of this batch has published it
            origin = Origin(self.topic, partition, self.outlet.dag_id, self.outlet.task_id, self.outlet.stage)
            for rows, done in _look_ahead(map(partial(self._check, partition), batches), end):
                if committed is not None and done <= committed:
                    continue
                outcomes = None if rows is None else price(_select(rows, committed), distance)
                with writer.transaction({partition: done}):
                    if outcomes is not None:
                        send_outcomes(writer, pa.Table.from_batches([outcomes]), self.outlet, origin)
                        published.count(pa.chunked_array([outcomes["reason"]]))
        return published

    def _check(self, partition: int, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows unchanged.

        Raises:
            ValueError: they are not all of this task's partition and range, so that it does not own them.
        """
        start, end = self.ranges[partition]
        first, last = pc.min_max(rows.column("offset")).as_py().values()
        is_own = pc.all(pc.equal(rows.column("partition"), partition)).as_py()
        if not is_own or first < (start or 0) or last >= end:
            raise ValueError(f"{self.topic}[{partition}] {start} to {end}: the task got messages {first} to {last}")
        return rows


def _select(rows: pa.RecordBatch, committed: int | None) -> pa.RecordBatch:
    """The messages that the group has not passed."""
    messages = make_messages(rows)
    return messages if committed is None else messages.filter(pc.greater_equal(rows.column("offset"), committed))


def _look_ahead(batches: Iterator[pa.RecordBatch], end: int) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """Each batch with the offset to commit after it: the range's `end` after the last one, and without a batch.

    The next batch is read before the transaction of this one begins.
    """
    rows = next(batches, None)
    if rows is None:
        yield None, end
    while rows is not None:
        following = next(batches, None)
        yield rows, end if following is None else rows.column("offset")[-1].as_py() + 1
        rows = following


def check_start(topic: str, group: str, partition: int, start: int | None, committed: int | None) -> None:
    """Check that a batch continues where a group is, or repeats what it has passed.

    Args:
        start: where the batch begins; None for a new partition.

    Raises:
        OffsetsError: messages between the group's offset and the batch would be lost, or the offset is gone.
    """
    if start is None or (committed is not None and start <= committed):
        return
    where = "has no committed offset" if committed is None else f"is at {committed}"
    raise OffsetsError(
        f"{topic}[{partition}]: the batch begins at offset {start}, but group {group} {where}: it was set back, or its "
        f"offsets expired. Nothing was done. {NEW_QUERY}"
    )
