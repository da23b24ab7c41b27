"""Computes the size of a stack for a rate of messages: `make sizing`. docs/sizing.md explains and shows its output.

Every assumption is an option: `python -m benchmarks.sizing --help`.
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable
from math import ceil, inf
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from benchmarks.layouts import COMPACT

# The part and candidate of `make bench` that measure an assumption.
BENCH = {
    "compute_rate": ("price", "datastream"),
    "export_rate": ("export", "PutGCP, emulator"),
}

DAY_S = 86_400
MB, GB, TB, GIB = 10**6, 10**9, 10**12, 2**30
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Assumptions(BaseSettings):
    """Compute the size of a stack from assumptions. Rates are messages per second, sizes bytes, prices US dollars."""

    model_config = SettingsConfigDict(frozen=True, cli_kebab_case=True, cli_hide_none_type=True, env_prefix="SIZING_")

    # --- The load
    rates: list[Count] = Field([50_000, 100_000, 500_000, 1_000_000], description="messages per second at the peak")
    mean_share: Share = Field(0.5, description="the day's mean rate as a share of the peak")
    bad_share: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="share of invalid messages")
    headroom: Positive = Field(2.0, description="capacity relative to the peak, to catch up with a backlog")

    # --- Measured on 2 cores shared with the broker (docs/sizing.md names the commands)
    raw_bytes: Positive = Field(111, description="bytes of a rides_raw message on Kafka's disk (benchmarks.footprint)")
    result_bytes: Positive = Field(
        145, description="bytes of a rides_result message on Kafka's disk (benchmarks.footprint)"
    )
    dead_letter_bytes: Positive = Field(
        150, description="bytes of a dead letter on Kafka's disk (benchmarks.footprint)"
    )
    document_bytes: Positive = Field(
        378, description="bytes of a document in Elasticsearch, merged (benchmarks.footprint)"
    )
    parquet_bytes: Positive = Field(72, description="bytes of a row in an object of 10,000 rows or more (docs/gcp.md)")
    object_bytes: Positive = Field(5_000, description="bytes of the schema and footer of an object (docs/gcp.md)")
    compute_rate: Positive = Field(120_000, description="rides per second through dag_compute_cost (make bench)")
    index_rate: Positive = Field(25_000, description="documents per second and core of Elasticsearch (make bench)")
    index_task_rate: Positive = Field(
        200_000, description="rides per second that PutElasticSearch can send (make bench)"
    )
    export_rate: Positive = Field(200_000, description="rides per second through PutGCP (make bench)")
    spark_rate: Positive = Field(33_000, description="rides per second and core of PySpark (make bench)")
    compute_overhead_s: Positive = Field(1.9, description="seconds of overhead of a dag_compute_cost run (make bench)")

    # --- Kafka
    replication: Count = Field(3, description="copies of each partition")
    retention_days: Positive = Field(7, description="retention of rides_raw and rides_result, in days")
    dead_letter_days: Positive = Field(14, description="retention of rides_dlq, in days")
    broker_disk_tb: Positive = Field(10, description="disk of one broker, in TB")
    broker_disk_mb_s: Positive = Field(480, description="disk throughput of one broker, in MB/s")
    broker_network_mb_s: Positive = Field(1250, description="network of one broker each way, in MB/s (10 Gbit/s)")
    fill: Share = Field(0.6, description="share of disk, network and throughput to use at the peak")
    partition_mb_s: Positive = Field(10, description="compressed MB/s of one partition")

    # --- Elasticsearch
    days_in_index: Positive = Field(7, description="days of rides in the index")
    replicas: Annotated[int, Field(ge=0)] = Field(1, description="replicas of each primary shard")
    shard_gb: Positive = Field(40, description="largest shard in GB; Elastic recommends 10 to 50")
    shard_documents: Count = Field(200_000_000, description="most documents in a shard, by Elastic's recommendation")
    node_cores: Count = Field(16, description="cores of one data node")
    node_disk_tb: Positive = Field(4, description="disk of one data node, in TB")
    node_fill: Share = Field(0.75, description="share of a node's disk to use; the low watermark is at 0.85")

    # --- Airflow, Spark
    max_records_per_run: Count = Field(1_000_000, description="MAX_RECORDS_PER_RUN")
    outage_h: Positive = Field(1.0, description="hours of an outage at the peak rate, to catch up with")

    # --- Cloud Storage and BigQuery
    chunk_records: Count = Field(50_000, description="CHUNK_RECORDS")
    export_target_records: Count = Field(500_000, description="EXPORT_TARGET_RECORDS")
    export_max_age_s: Positive = Field(300, description="EXPORT_MAX_AGE_S")
    kept_days: Positive = Field(365, description="days for which Parquet and the native table are kept")
    row_bytes: Positive = Field(156, description="bytes of a ride in BigQuery (docs/gcp.md)")
    column_bytes: Positive = Field(22, description="bytes of ts, comfort and price_total of a ride in BigQuery")
    queries_per_day: Count = Field(96, description="queries of the current day's revenue: one every 15 minutes")
    storage_price: Positive = Field(0.026, description="Cloud Storage Standard, EU, per GiB and month")
    write_price: Positive = Field(0.01 / 1000, description="a class A operation, EU: writing an object")
    native_price: Positive = Field(0.020, description="BigQuery, active logical storage, EU, per GiB and month")
    scan_price: Positive = Field(6.25, description="BigQuery on demand, EU, per TiB scanned")

    bench: Path | None = Field(None, description="bench.json of `make bench`, to use its rates")

    def daily(self, rate: float) -> float:
        """Messages per day."""
        return rate * self.mean_share * DAY_S


# --- Kafka -------------------------------------------------------------------------------------


def write_bytes(a: Assumptions, rate: float) -> float:
    """Bytes per second that producers write to all topics, before replication: raw rides, results, dead letters."""
    return rate * (a.raw_bytes + (1 - a.bad_share) * a.result_bytes + a.bad_share * a.dead_letter_bytes)


def read_bytes(a: Assumptions, rate: float) -> float:
    """Bytes per second that consumers read: raw rides once, results twice (PutElasticSearch and PutGCP)."""
    return rate * (a.raw_bytes + 2 * (1 - a.bad_share) * a.result_bytes)


def network_out_bytes(a: Assumptions, rate: float) -> float:
    """Bytes per second that all brokers send to consumers and to the followers of each partition."""
    return read_bytes(a, rate) + (a.replication - 1) * write_bytes(a, rate)


def kafka_disk_bytes(a: Assumptions, rate: float) -> float:
    """Bytes on all brokers when retention deletes as much as arrives."""
    kept = (a.raw_bytes + (1 - a.bad_share) * a.result_bytes) * a.retention_days
    kept += a.bad_share * a.dead_letter_bytes * a.dead_letter_days
    return a.daily(rate) * kept * a.replication


def brokers_by(a: Assumptions, rate: float) -> dict[str, int]:
    """The number of brokers that each resource needs."""
    written = write_bytes(a, rate) * a.replication
    return {
        "disk space": ceil(kafka_disk_bytes(a, rate) / (a.broker_disk_tb * TB * a.fill)),
        "disk throughput": ceil(written / (a.broker_disk_mb_s * MB * a.fill)),
        "network in": ceil(written / (a.broker_network_mb_s * MB * a.fill)),
        "network out": ceil(network_out_bytes(a, rate) / (a.broker_network_mb_s * MB * a.fill)),
    }


def brokers(a: Assumptions, rate: float) -> int:
    """The brokers that the scarcest resource needs, plus one that may fail; at least one for each copy."""
    return max(a.replication, max(brokers_by(a, rate).values()) + 1)


def topic_partitions(a: Assumptions, rate: float) -> int:
    """Partitions of each topic, a multiple of 6: by bytes, and by Spark's cores if one process is not enough."""
    by_bytes = rate * max(a.raw_bytes, a.result_bytes) / (a.partition_mb_s * MB)
    by_consumers = 0 if fits_one_process(a, rate) else rate * a.headroom / a.spark_rate
    return 6 * max(1, ceil(max(by_bytes, by_consumers) / 6))


# --- Airflow and Spark -------------------------------------------------------------------------


def run_seconds(a: Assumptions, rate: float) -> float:
    """Seconds of a run of dag_compute_cost in continuous operation: overhead + rate × seconds / compute_rate.

    Infinite if one process does not keep up.
    """
    return a.compute_overhead_s / (1 - rate / a.compute_rate) if rate < a.compute_rate else inf


def runs_per_day(a: Assumptions, rate: float) -> float:
    """Runs per day at the mean rate; infinite if one process does not keep up."""
    seconds = run_seconds(a, rate * a.mean_share)
    return DAY_S / seconds if seconds < inf else inf


def run_records(a: Assumptions, rate: float) -> float:
    """Rides in a run. MAX_RECORDS_PER_RUN must be at least this."""
    return rate * run_seconds(a, rate)


def most_per_second(a: Assumptions) -> float:
    """Rides per second through dag_compute_cost with a backlog: MAX_RECORDS_PER_RUN in each run."""
    return a.max_records_per_run / (a.compute_overhead_s + a.max_records_per_run / a.compute_rate)


def catch_up_hours(a: Assumptions, rate: float) -> float:
    """Hours to catch up with the backlog of an outage while rides arrive at the peak rate."""
    spare = most_per_second(a) - rate
    return a.outage_h * rate / spare if spare > 0 else inf


def fits_one_process(a: Assumptions, rate: float) -> bool:
    """Whether one process for each task of dag_compute_cost has enough headroom, with enough MAX_RECORDS_PER_RUN."""
    return rate * a.headroom < a.compute_rate


def spark_cores(a: Assumptions, rate: float) -> int:
    return ceil(rate * a.headroom / a.spark_rate)


# --- Elasticsearch -----------------------------------------------------------------------------


def documents(a: Assumptions, rate: float) -> float:
    return a.daily(rate) * (1 - a.bad_share) * a.days_in_index


def shards(a: Assumptions, rate: float) -> int:
    """The number of primary shards of the index."""
    held = documents(a, rate)
    return ceil(max(held * a.document_bytes / (a.shard_gb * GB), held / a.shard_documents))


def nodes_by(a: Assumptions, rate: float) -> dict[str, int]:
    """The number of data nodes that each resource needs. Writing a replica costs as much as writing a primary."""
    copies = 1 + a.replicas
    return {
        "disk space": ceil(documents(a, rate) * a.document_bytes * copies / (a.node_disk_tb * TB * a.node_fill)),
        "cores": ceil(rate * copies / (a.index_rate * a.node_cores)),
    }


def nodes(a: Assumptions, rate: float) -> int:
    return max(3, max(nodes_by(a, rate).values()) + 1)


# --- Cloud Storage and BigQuery ----------------------------------------------------------------


def export_seconds(a: Assumptions, rate: float) -> float:
    """Seconds between two exports at the mean rate, by EXPORT_TARGET_RECORDS or EXPORT_MAX_AGE_S."""
    return min(a.export_max_age_s, a.export_target_records / (rate * a.mean_share))


def objects_per_day(a: Assumptions, rate: float) -> float:
    """Objects per day: one for each chunk of a partition in an export, and one more when an export crosses the hour."""
    seconds, partitions = export_seconds(a, rate), topic_partitions(a, rate)
    chunks = ceil(rate * a.mean_share * seconds / partitions / a.chunk_records)
    return partitions * (DAY_S / seconds * chunks + 24)


def parquet_per_day(a: Assumptions, rate: float) -> float:
    return a.daily(rate) * a.parquet_bytes + objects_per_day(a, rate) * a.object_bytes


def storage_dollars(a: Assumptions, rate: float) -> float:
    """The monthly cost of storing `kept_days` of Parquet."""
    return parquet_per_day(a, rate) * a.kept_days / GIB * a.storage_price


def write_dollars(a: Assumptions, rate: float) -> float:
    """The monthly cost of writing objects."""
    return objects_per_day(a, rate) * 30 * a.write_price


def native_dollars(a: Assumptions, rate: float) -> float:
    """The monthly cost of storing `kept_days` of rides in the native table."""
    return a.daily(rate) * a.kept_days * a.row_bytes / GIB * a.native_price


def scan_dollars(a: Assumptions, rate: float) -> float:
    """The monthly cost of queries of the current day, which is half over on average."""
    return a.daily(rate) / 2 * a.column_bytes * a.queries_per_day * 30 / 2**40 * a.scan_price


# --- Tables ------------------------------------------------------------------------------------

# A row: its name, and a function that formats its figure for a rate.
Row = tuple[str, Callable[[Assumptions, float], str]]

KAFKA: list[Row] = [
    ("written by producers, MB/s", lambda a, rate: _format(write_bytes(a, rate) / MB)),
    ("written to all disks, MB/s", lambda a, rate: _format(write_bytes(a, rate) * a.replication / MB)),
    ("network out, MB/s", lambda a, rate: _format(network_out_bytes(a, rate) / MB)),
    ("kept on all disks, TB", lambda a, rate: f"{kafka_disk_bytes(a, rate) / TB:,.1f}"),
    ("brokers", lambda a, rate: f"{brokers(a, rate)}"),
    ("scarcest", lambda a, rate: _find_scarcest(brokers_by(a, rate))),
    ("partitions of each topic", lambda a, rate: f"{topic_partitions(a, rate)}"),
]
AIRFLOW: list[Row] = [
    ("a run at the peak, s", lambda a, rate: _format(run_seconds(a, rate), "never ends")),
    ("rides in it", lambda a, rate: _format(run_records(a, rate), "–")),
    ("runs a day", lambda a, rate: _format(runs_per_day(a, rate), "–")),
    ("outage caught up, h", lambda a, rate: _format(catch_up_hours(a, rate), "never", digits=1)),
    ("one process has headroom", lambda a, rate: "yes" if fits_one_process(a, rate) else "no: Spark"),
    ("MAX_RECORDS_PER_RUN for it", lambda a, rate: _format(run_records(a, rate * a.headroom), "–")),
    ("Spark cores instead", lambda a, rate: "–" if fits_one_process(a, rate) else f"{spark_cores(a, rate)}"),
    ("processes that index", lambda a, rate: f"{ceil(rate * a.headroom / a.index_task_rate)}"),
    ("processes that export", lambda a, rate: f"{ceil(rate * a.mean_share * a.headroom / a.export_rate)}"),
]
ELASTICSEARCH: list[Row] = [
    ("documents, billions", lambda a, rate: f"{documents(a, rate) / 1e9:,.1f}"),
    ("primaries, TB", lambda a, rate: f"{documents(a, rate) * a.document_bytes / TB:,.1f}"),
    ("primary shards", lambda a, rate: f"{shards(a, rate):,}"),
    ("data nodes", lambda a, rate: f"{nodes(a, rate)}"),
    ("scarcest", lambda a, rate: _find_scarcest(nodes_by(a, rate))),
    ("shards on a node", lambda a, rate: f"{ceil(shards(a, rate) * (1 + a.replicas) / nodes(a, rate))}"),
]
GOOGLE: list[Row] = [
    ("from one export to the next, s", lambda a, rate: _format(export_seconds(a, rate))),
    ("objects a day", lambda a, rate: _format(objects_per_day(a, rate))),
    ("EXPORT_TARGET_RECORDS for an export every 5 min", lambda a, rate: _format(rate * a.mean_share * 300)),
    ("MB of an object", lambda a, rate: f"{parquet_per_day(a, rate) / objects_per_day(a, rate) / MB:,.1f}"),
    ("Parquet a day, GB", lambda a, rate: _format(parquet_per_day(a, rate) / GB)),
    ("$/month: writing objects", lambda a, rate: _format(write_dollars(a, rate))),
    ("$/month: keeping Parquet", lambda a, rate: _format(storage_dollars(a, rate))),
    ("$/month: keeping the native table", lambda a, rate: _format(native_dollars(a, rate))),
    ("$/month: queries of the running day", lambda a, rate: _format(scan_dollars(a, rate))),
]
TABLES = {
    "Kafka": KAFKA,
    "Airflow": AIRFLOW,
    "Elasticsearch": ELASTICSEARCH,
    "Cloud Storage and BigQuery": GOOGLE,
}


def format_tables(a: Assumptions) -> str:
    """All tables as text, a column for each rate."""
    text = io.StringIO()
    console = Console(file=text, width=120)
    for title, rows in TABLES.items():
        table = Table(title, *(f"{rate:,} msg/s" for rate in a.rates))
        for column in table.columns[1:]:
            column.justify = "right"
        for name, figure in rows:
            table.add_row(name, *(figure(a, rate) for rate in a.rates))
        console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def apply_bench(a: Assumptions, path: Path) -> Assumptions:
    """The assumptions with the median rates that `make bench` measured."""
    results = [
        result for result in json.loads(path.read_text())["results"] if result.get("layout", "") in {"", COMPACT}
    ]
    measured = {(result["part"], result["name"]): result["passes"] for result in results}
    rates = {
        field: statistics.median(result["messages"] / result["seconds"] for result in measured[candidate])
        for field, candidate in BENCH.items()
        if measured.get(candidate)
    }
    return a.model_copy(update=rates)


def _format(value: float, infinite: str = "", digits: int = 0) -> str:
    return infinite if value == inf else f"{value:,.{digits}f}"


def _find_scarcest(needs: dict[str, int]) -> str:
    return max(needs, key=lambda name: needs[name])


def main() -> None:
    a = CliApp.run(Assumptions)
    if a.bench:
        a = apply_bench(a, a.bench)
    print(format_tables(a), end="")


if __name__ == "__main__":
    main()
