"""Prices rides with Spark's built-in functions. `benchmarks.spark` runs it."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f
from pyspark.sql.types import DoubleType, StringType, StructField, StructType

from benchmarks.peers.pricing import COMFORTS, MEAN_EARTH_RADIUS_KM

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
