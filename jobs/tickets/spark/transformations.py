"""What Spark makes of the messages: tickets with their team, rejects with their reason, and the figures."""

from __future__ import annotations

from itertools import chain

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from jobs.tickets.contract import HIGH_PRIORITIES, PRIORITIES, TEAMS, Reason
from jobs.tickets.parse import ADDED, parse_batches

# What is read of a Kafka message.
MESSAGE = ("key", "value", "headers", "topic", "partition", "offset", "timestamp")
POSITION = ("kafka_partition", "kafka_offset")
FIELDS = ("ticket_id", "client_id", "created_at", "request", "request_type", "priority")


def parse(messages: DataFrame) -> DataFrame:
    """Kafka messages with the columns of `jobs.tickets.parse.ADDED`."""
    messages = messages.select(*MESSAGE)
    schema = StructType([*messages.schema.fields, *from_arrow_schema(ADDED).fields])
    return messages.mapInArrow(parse_batches, schema)


def split(parsed: DataFrame, earlier: DataFrame | None = None) -> tuple[DataFrame, DataFrame]:
    """Split parsed messages into tickets and rejects; each message is in one of them.

    The first message with a ticket_id is the ticket: by Kafka's time, partition, offset. The others are rejects.

    Args:
        earlier: the tickets of earlier batches.
    """
    by_id = Window.partitionBy("ticket_id")
    in_order = by_id.orderBy("timestamp", "partition", "offset")
    valid = (
        parsed.where(f.col("reason").isNull())
        .withColumn("rank", f.row_number().over(in_order))
        .withColumn("first_partition", f.first("partition").over(in_order))
        .withColumn("first_offset", f.first("offset").over(in_order))
    )
    if earlier is not None:
        ids = f.broadcast(valid.select("ticket_id").distinct())
        seen = earlier.join(ids, "ticket_id", "left_semi").select("ticket_id", *POSITION)
        valid = valid.join(f.broadcast(seen), "ticket_id", "left")
        is_first = (f.col("rank") == 1) & f.col("kafka_offset").isNull()
        first = [f.coalesce("kafka_partition", "first_partition"), f.coalesce("kafka_offset", "first_offset")]
    else:
        is_first = f.col("rank") == 1
        first = [f.col("first_partition"), f.col("first_offset")]
    tickets = valid.where(is_first).select(
        *FIELDS,
        _name_team().alias("assigned_team"),
        f.col("partition").alias("kafka_partition"),
        f.col("offset").alias("kafka_offset"),
    )
    repeats = (
        valid.where(~is_first)
        .withColumn("reason", f.lit(str(Reason.DUPLICATE_TICKET)))
        .withColumn("detail", f.format_string("the ticket came first in partition %d at offset %d", *first))
        .withColumn("text", f.decode("value", "UTF-8"))
    )
    rejects = parsed.where(f.col("reason").isNotNull()).unionByName(repeats.select(*parsed.columns))
    # The columns of a position first, then what is wrong, then the message: as text, and byte for byte.
    return tickets, rejects.select(
        "topic", "partition", "offset", "timestamp", "reason", "detail", "ticket_id", "text", "key", "value", "headers"
    )


def _name_team() -> Column:
    teams = f.create_map(*(f.lit(text) for text in chain.from_iterable(TEAMS.items())))
    return teams[f.col("request_type")]


def measure(tickets: DataFrame) -> DataFrame:
    """One row: the number of tickets in all, by type, critical ones, and the number of clients."""
    return tickets.select(
        f.count("*").alias("total_tickets"),
        *(f.count_if(f.col("request_type") == kind).alias(f"{kind}_count") for kind in TEAMS),
        f.count_if(f.col("priority") == "critical").alias("critical_priority_count"),
        f.count_distinct("client_id").alias("unique_clients"),
    )


def count_by(tickets: DataFrame, column: str, values: tuple[str, ...]) -> DataFrame:
    """The number of tickets for each value, the most frequent first; 0 for values without tickets."""
    every = tickets.sparkSession.range(1).select(f.explode(f.array(*map(f.lit, values))).alias(column))
    return (
        every.join(tickets.select(column, f.lit(1).alias("one")), column, "left")
        .groupBy(column)
        .agg(f.count("one").alias("count"))
        .orderBy(f.desc("count"), column)
    )


def make_outputs(tickets: DataFrame, rejects: DataFrame) -> dict[str, DataFrame]:
    """The outputs by name, each in one partition."""
    high = tickets.where(f.col("priority").isin(*HIGH_PRIORITIES))
    return {
        "tickets_with_assignment": _merge(tickets, *POSITION),
        "high_priority_tickets": _merge(high, *POSITION),
        "rejects": _merge(rejects, "partition", "offset"),
        "tickets_by_type": count_by(tickets, "request_type", tuple(TEAMS)).coalesce(1),
        "tickets_by_priority": count_by(tickets, "priority", PRIORITIES).coalesce(1),
        "metrics": measure(tickets).coalesce(1),
    }


def _merge(rows: DataFrame, *order: str) -> DataFrame:
    # Not coalesce(1): it would run everything before it on one core.
    return rows.repartition(1).sortWithinPartitions(*order)
