"""One batch: the messages that the topic holds now."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.kafka.offsets import Bounds
from jobs.tickets.outputs import Format, Run, make_time, write_outputs
from jobs.tickets.source import Topic
from jobs.tickets.spark.transformations import make_outputs, parse, split
from jobs.tickets.summary import Summary

log = logging.getLogger("ticket_processor")


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
    log_messages(tickets, rejects)
    return Summary(run, *count(tickets, rejects), time.monotonic() - begun)


def count(tickets: DataFrame, rejects: DataFrame) -> tuple[int, dict[str, int]]:
    """The number of tickets, and of rejects by reason."""
    by_reason = rejects.groupBy("reason").count().collect()
    return tickets.count(), {row["reason"]: row["count"] for row in by_reason}


def log_messages(tickets: DataFrame, rejects: DataFrame) -> None:
    """Log each message of a batch with its ticket_id, if the level is DEBUG."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    for row in tickets.toLocalIterator():
        log.debug(
            "ticket_id=%s partition=%d offset=%d assigned_team=%r",
            row.ticket_id, row.kafka_partition, row.kafka_offset, row.assigned_team,
        )  # fmt: skip
    for row in rejects.select("ticket_id", "partition", f.col("offset").alias("position"), "reason").toLocalIterator():
        log.debug(
            "ticket_id=%s partition=%d offset=%d reason=%s", row.ticket_id, row.partition, row.position, row.reason
        )
