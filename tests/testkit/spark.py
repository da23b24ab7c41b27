"""The stream of rides on Spark as a user runs it, in .venv-spark, on topics of its own."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.clients import Systems
from jobs.kafka.publish import Outlet
from jobs.kafka.staged import MESSAGE_SCHEMA
from jobs.rides.distance import find_distance_function
from jobs.rides.pricing import price
from jobs.rides.spark.ledger import Ledger, take_ledger
from jobs.rides.spark.vertical import STREAM_GROUP, SparkSettings
from jobs.settings import ROOT
from tests.testkit.kafka import Config, Record, read_all

PYTHON = ROOT / ".venv-spark" / "bin" / "python"
# Half of the time of Java's start; slower code later.
QUICK_START = {"JDK_JAVA_OPTIONS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"}


def install_spark() -> None:
    """Install Spark, unless it is installed."""
    subprocess.run(["make", ".venv-spark/.stamp"], cwd=ROOT, env=dict(os.environ), check=True, timeout=500)


class SparkStream:
    """New topics, and the stream between them.

    Args:
        variables: more environment variables of the stream.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic_factory: Callable[..., str],
        state: Path,
        *,
        partitions: int = 4,
        variables: Mapping[str, str],
    ) -> None:
        self.config: Config = {"bootstrap.servers": bootstrap_servers}
        self.source = topic_factory("raw", partitions)
        self.result = topic_factory("result", partitions)
        self.dlq = topic_factory("dlq", partitions)
        self.state = state
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DATASTREAM_STATE": str(state),
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            "RAW_TOPIC": self.source,
            "SPARK_RESULT_TOPIC": self.result,
            "SPARK_DLQ_TOPIC": self.dlq,
            "SPARK_DRIVER_MEMORY": "512m",
            **QUICK_START,
            **variables,
        }

    @property
    def checkpoint(self) -> Path:
        return self.state / "spark" / STREAM_GROUP / "checkpoint"

    @property
    def settings(self) -> SparkSettings:
        return SparkSettings(
            _env_file=None,  # type: ignore[call-arg]
            datastream_state=self.state,
            kafka_bootstrap_servers=self.config["bootstrap.servers"],
            raw_topic=self.source,
            spark_result_topic=self.result,
            spark_dlq_topic=self.dlq,
        )

    @property
    def outlet(self) -> Outlet:
        return Outlet(self.result, self.dlq, STREAM_GROUP, "spark_enrich", "TRANSFORMATION")

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Price what the topic has now."""
        return subprocess.run(
            [PYTHON, "-m", "jobs.spark_enrich", "stream", "--once"], env=self.environment | variables, cwd=ROOT,
            capture_output=True, text=True, timeout=400, check=False, start_new_session=True,
        )  # fmt: skip

    def ledger(self) -> Ledger:
        return take_ledger(Systems(self.settings))

    def list_differences(self, distance: str = "haversine") -> list[str]:
        """Compare what the topics hold with what the Python path makes of the same messages, bit for bit."""
        raws = read_all(self.config, self.source)
        outcomes = price(make_message_batch(raws), find_distance_function(distance)).to_pylist()
        good = Counter((row["key"], row["value"]) for row in outcomes if row["reason"] is None)
        bad = Counter(
            (record.partition, record.offset, record.key, record.value, row["reason"], row["message"][:1000])
            for record, row in zip(raws, outcomes, strict=True)
            if row["reason"] is not None
        )
        results = Counter((record.key, record.value) for record in read_all(self.config, self.result))
        letters = Counter(
            (
                int(letter.error["partition"]),
                int(letter.error["offset"]),
                letter.key,
                letter.value,
                letter.error["exception.class.name"],
                letter.error["exception.message"],
            )
            for letter in read_all(self.config, self.dlq)
        )
        return [
            *(f"no result {one}" for one in (good - results).elements()),
            *(f"one result too many {one}" for one in (results - good).elements()),
            *(f"no dead letter {one}" for one in (bad - letters).elements()),
            *(f"one dead letter too many {one}" for one in (letters - bad).elements()),
        ]


def make_message_batch(records: list[Record]) -> pa.RecordBatch:
    """Records as a batch of MESSAGE_SCHEMA."""
    rows: list[dict[str, Any]] = [
        {
            "offset": record.offset,
            "timestamp": 0,
            "key": record.key,
            "value": record.value,
            "headers": [{"key": key, "value": value} for key, value in record.headers or []] or None,
        }
        for record in records
    ]
    return pa.RecordBatch.from_pylist(rows, MESSAGE_SCHEMA)
