"""One batch: the messages that the topic holds now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession

from jobs.kafka.offsets import Bounds
from jobs.tickets.outputs import Format, Run, make_time, write_outputs
from jobs.tickets.source import Topic
from jobs.tickets.spark.transformations import make_outputs, parse, split
from jobs.tickets.summary import Summary


def process_topic(
    spark: SparkSession, topic: Topic, bounds: Mapping[int, Bounds], outputs: Path, fmt: Format
) -> Summary:
    """Process the messages with these offsets, and replace all outputs."""
    begun = time.monotonic()
    messages = spark.read.format("kafka").options(**topic.make_range_options(bounds)).load()
    tickets, rejects = (rows.persist() for rows in split(parse(messages).persist()))
    ends = {partition: bound.end for partition, bound in bounds.items()}
    run = Run(f"batch-{uuid4()}", "batch", topic.name, ends, make_time())
    write_outputs(outputs, make_outputs(tickets, rejects), fmt, run)
    return Summary(run, *count(tickets, rejects), time.monotonic() - begun)


def count(tickets: DataFrame, rejects: DataFrame) -> tuple[int, dict[str, int]]:
    """The number of tickets, and of rejects by reason."""
    by_reason = rejects.groupBy("reason").count().collect()
    return tickets.count(), {row["reason"]: row["count"] for row in by_reason}
