"""A Spark session with the settings of this vertical."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from jobs.rides.spark.source import limit_batches
from jobs.rides.spark.vertical import SparkSettings
from jobs.spark import session
from jobs.spark.memory import check_memory


@contextmanager
def open_session(name: str, settings: SparkSettings) -> Iterator[SparkSession]:
    """
    Raises:
        ConfigurationError: the memory does not fit this machine, or the Kafka connector is not installed.
        ServiceUnavailableError: Spark does not start, the cluster does not take the session, or Java fails or ends.
    """
    check_memory(settings.spark_driver_memory, "raise the limit of this container or machine")
    with session.open_session(
        name,
        memory=settings.spark_driver_memory,
        master=settings.spark_master,
        cores=settings.spark_cores_max,
        executor_memory=settings.spark_executor_memory,
        host=settings.spark_driver_host,
        password=settings.spark_cluster_password,
        remedy="Check SPARK_MASTER, SPARK_DRIVER_MEMORY; of a cluster SPARK_CLUSTER_PASSWORD, SPARK_DRIVER_HOST.",
    ) as spark:
        limit_batches(spark)
        yield spark
