"""Prices rides with Spark: `python -m benchmarks.spark ENGINE CORES ROUTE`, in .venv-spark.

Structured Streaming from Kafka to Kafka, trigger availableNow, checkpoint on local disk. The engines:

- functions: Spark's built-in functions and its Kafka sink, which is at least once: it has no transactions, and may
  write a failed batch again.
- arrow: `mapInArrow` with the project's `price`, and the same sink.
- exactly-once: `jobs.rides.spark.stream`, with its settings.

One pass over the topic warms up the JVM before the measured one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from benchmarks.measured import measured
from benchmarks.peers.spark import work
from benchmarks.route import Route, name_dead_letters, name_warm_up
from jobs.rides.distance import haversine
from jobs.rides.pricing import price
from jobs.rides.spark.source import limit_batches, make_messages, make_options
from jobs.rides.spark.stream import Stream
from jobs.rides.spark.vertical import SparkSettings
from jobs.spark.session import open_session

SINK = {
    "kafka.compression.type": "lz4",
    "kafka.linger.ms": "5",
    "kafka.batch.size": "1000000",
    "kafka.buffer.memory": str(64 * 2**20),
}


def run_functions(spark: SparkSession, route: Route, checkpoint: Path) -> None:
    kafka = {"kafka.bootstrap.servers": route.bootstrap_servers}
    source = spark.readStream.format("kafka").options(**kafka, subscribe=route.source, startingOffsets="earliest")
    _send(work(source.load()), checkpoint, kafka | {"topic": route.target})


def run_arrow(spark: SparkSession, route: Route, checkpoint: Path) -> None:
    options = make_options({"bootstrap.servers": route.bootstrap_servers})
    source = spark.readStream.format("kafka").options(**options, subscribe=route.source, startingOffsets="earliest")
    priced = source.load().mapInArrow(partial(price_rows, route.target), "topic string, key binary, value binary")
    _send(priced, checkpoint, {"kafka.bootstrap.servers": route.bootstrap_servers})


def price_rows(target: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For `mapInArrow`: results, and rejected messages for the dead-letter topic."""
    for batch in batches:
        outcomes = price(make_messages(batch), haversine)
        topics = pc.if_else(outcomes.column("reason").is_null(), target, name_dead_letters(target))
        columns = {"topic": topics, **{name: outcomes.column(name) for name in ("key", "value")}}
        yield pa.RecordBatch.from_pydict(columns)


def _send(messages: DataFrame, checkpoint: Path, options: dict[str, str]) -> None:
    query = messages.writeStream.format("kafka").options(**SINK, **options, checkpointLocation=str(checkpoint))
    query.trigger(availableNow=True).start().awaitTermination()


def run_exactly_once(spark: SparkSession, route: Route, checkpoint: Path) -> None:
    settings = SparkSettings(
        kafka_bootstrap_servers=route.bootstrap_servers,
        raw_topic=route.source,
        spark_result_topic=route.target,
        spark_dlq_topic=name_dead_letters(route.target),
    )
    stream = Stream(settings, {"bootstrap.servers": route.bootstrap_servers}, route.target, checkpoint)
    stream.start(spark, once=True).awaitTermination()


ENGINES: dict[str, Callable[[SparkSession, Route, Path], None]] = {
    "functions": run_functions,
    "arrow": run_arrow,
    "exactly-once": run_exactly_once,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("cores", type=int)
    parser.add_argument("route", type=Route.from_json)
    parser.add_argument("--memory", default="2g", help="heap of Java")
    parser.add_argument("--cold", action="store_true", help="no pass before the measured one")
    given = parser.parse_args()
    run, route, folder = ENGINES[given.engine], given.route, Path(given.route.folder)
    with open_session("benchmark", memory=given.memory, master=f"local[{given.cores}]") as spark:
        limit_batches(spark)
        if not given.cold:
            warm_up = Route(
                route.bootstrap_servers, route.source, name_warm_up(route.target), route.count, route.folder
            )
            run(spark, warm_up, folder / "warm-up")
        with measured():
            run(spark, route, folder / "checkpoint")


if __name__ == "__main__":
    main()
