"""PySpark: `python -m benchmarks.peers.spark ROUTE JARS`, in .venv-bench.

Structured Streaming from Kafka to Kafka with built-in functions, trigger availableNow and a checkpoint on local disk.
At least once: Spark's Kafka sink has no transactions and may write a failed micro-batch again. One pass over the topic
warms up the JVM before the measured one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import DoubleType, StringType, StructField, StructType

from benchmarks.measured import measured
from benchmarks.peers.pricing import COMFORTS, MEAN_EARTH_RADIUS_KM
from benchmarks.route import Route
from jobs.spark.java import make_java_home

NUMBERS = ("duration_min", "price_base", "price_per_km", "price_per_min")
POINT = StructType([StructField("lat", DoubleType()), StructField("lon", DoubleType())])
RIDE = StructType(
    [
        *(StructField(name, StringType()) for name in ("ride_id", "ts", "comfort")),
        *(StructField(name, POINT) for name in ("origin", "destination")),
        *(StructField(name, DoubleType()) for name in NUMBERS),
    ]
)


def make_distance_column() -> Column:
    phi_1, phi_2 = f.radians("ride.origin.lat"), f.radians("ride.destination.lat")
    half_lambda = f.radians(f.col("ride.destination.lon") - f.col("ride.origin.lon")) / 2
    a = f.sin((phi_2 - phi_1) / 2) ** 2 + f.cos(phi_1) * f.cos(phi_2) * f.sin(half_lambda) ** 2
    return 2 * MEAN_EARTH_RADIUS_KM * f.asin(f.sqrt(f.least(a, f.lit(1.0))))


def work(messages: DataFrame) -> DataFrame:
    """Key and value of each message: the priced ride, or the unchanged message."""
    names = f.create_map(*(f.lit(name) for pair in COMFORTS.items() for name in pair))
    ride = f.from_json(f.col("value").cast("string"), RIDE)
    total = f.col("ride.price_base") + f.col("distance_km") * f.col("ride.price_per_km")
    total += f.col("ride.duration_min") * f.col("ride.price_per_min")
    priced = f.struct(
        "ride.ride_id", "ride.ts", "ride.origin", "ride.destination",
        f.coalesce(names[f.col("ride.comfort")], "ride.comfort").alias("comfort"),
        *(f"ride.{name}" for name in NUMBERS),
        "distance_km", "price_total",
    )  # fmt: skip
    return (
        messages.select("key", "value", ride.alias("ride"))
        .withColumn("distance_km", make_distance_column())
        .withColumn("price_total", total)
        .select(
            "key",
            f.when(f.col("price_total").isNull(), f.col("value").cast("string"))
            .otherwise(f.to_json(priced))
            .alias("value"),
        )
    )


def run(spark: SparkSession, route: Route, checkpoint: Path) -> None:
    """Price all messages that the source has at the start."""
    kafka = {"kafka.bootstrap.servers": route.bootstrap_servers}
    source = spark.readStream.format("kafka").options(**kafka, subscribe=route.source, startingOffsets="earliest")
    sink = {
        **kafka,
        "topic": route.target,
        "kafka.compression.type": "lz4",
        "kafka.linger.ms": "5",
        "kafka.batch.size": "1000000",
        "kafka.buffer.memory": str(64 * 2**20),
    }
    query = work(source.load()).writeStream.format("kafka").options(**sink, checkpointLocation=str(checkpoint))
    query.trigger(availableNow=True).start().awaitTermination()


def main(route: Route, jars: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="spark-", dir=route.folder))
    os.environ["JAVA_HOME"] = str(make_java_home(folder))
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.jars", jars)
        .config("spark.driver.memory", "2g")
        .config("spark.driver.defaultJavaOptions", f"-Djava.io.tmpdir={folder}")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", str(folder / "scratch"))
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    warm_up = Route(route.bootstrap_servers, route.source, f"{route.target}-warm-up", route.count, route.folder)
    run(spark, warm_up, folder / "warm-up")
    with measured():
        run(spark, route, folder / "checkpoint")
    spark.stop()


if __name__ == "__main__":
    main(Route.from_json(sys.argv[1]), sys.argv[2])
