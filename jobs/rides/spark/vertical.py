"""The declaration of the vertical spark: rides that Spark prices, exported by Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from jobs.rides.vertical import COMPUTE_GROUP, RidesSettings
from jobs.settings import LOOPBACK, ROOT, Name, Port, Topic, Url
from jobs.vertical import Group, Vertical

# The group of the stream on its own topics. After `make engine TO=spark` the stream also runs as COMPUTE_GROUP.
STREAM_GROUP = "spark_enrich"
EXPORT_GROUP = "spark_export"


class SparkSettings(RidesSettings):
    """The settings that Spark adds to the rides'."""

    topic_settings: ClassVar[tuple[str, ...]] = ("spark_result_topic", "spark_dlq_topic")

    spark_result_topic: Topic = "rides_result_spark"
    spark_dlq_topic: Topic = "rides_dlq_spark"
    # local[n] (n cores of this machine), or the URL of a cluster: spark://host:7077, k8s://…
    spark_master: Name = "local[2]"
    # Heap of Java (512m, 2g): of the driver, which is the only Java process with local[n], and of each executor.
    spark_driver_memory: str = "1g"
    spark_executor_memory: str = "1g"
    # The most cores of a cluster that a job takes; 0: all.
    spark_cores_max: Annotated[int, Field(ge=0)] = 0
    # The shared secret of a standalone cluster (`spark.authenticate`); empty: it asks for none.
    spark_cluster_password: str = ""
    # The name under which the cluster's executors find the driver.
    spark_driver_host: str = ""
    # Seconds between two batches of the stream, and the most messages in one.
    spark_trigger_s: Annotated[float, Field(ge=0)] = 10
    spark_max_batch: Annotated[int, Field(ge=1)] = 300_000
    # The server that prices claims of dag_compute_cost with COMPUTE_ENGINE=spark.
    spark_driver_port: Port = 8084
    spark_driver_url: Url = ""
    spark_export_prefix: Name = "rides/spark/"

    @property
    def driver_url(self) -> str:
        return self.spark_driver_url or f"http://{LOOPBACK}:{self.spark_driver_port}"

    @property
    def checkpoints(self) -> Path:
        """The folder with the checkpoints, one folder for each query."""
        return self.datastream_state / "spark"

    def find_output(self, group: str) -> tuple[str, str]:
        """The topics for results and dead letters of the stream that runs as this group."""
        if group == COMPUTE_GROUP:
            return self.result_topic, self.dlq_topic
        return self.spark_result_topic, self.spark_dlq_topic


VERTICAL = Vertical(
    name="spark",
    settings=SparkSettings,
    topics=ROOT / "infra" / "kafka" / "topics" / "spark.yml",
    groups=(Group(STREAM_GROUP, "raw_topic", done="priced by the stream", engine="spark"),),
    ledger="jobs.rides.spark.ledger:take_ledger",
    services=("kafka", "elasticsearch", "gcs", "spark-driver", "airflow"),
)
