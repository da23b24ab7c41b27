"""A Spark session with the settings of this vertical."""

from __future__ import annotations

from contextlib import AbstractContextManager

from pyspark.sql import SparkSession

from jobs.rides.spark.vertical import SparkSettings
from jobs.spark import session
from jobs.spark.memory import check_memory


def open_session(name: str, settings: SparkSettings) -> AbstractContextManager[SparkSession]:
    """
    Raises:
        ConfigurationError: the memory does not fit this machine, or the Kafka connector is not installed.
    """
    check_memory(settings.spark_driver_memory, "set SPARK_DRIVER_MEMORY")
    return session.open_session(
        name,
        memory=settings.spark_driver_memory,
        master=settings.spark_master,
        cores=settings.spark_cores_max,
        executor_memory=settings.spark_executor_memory,
        host=settings.spark_driver_host,
    )
