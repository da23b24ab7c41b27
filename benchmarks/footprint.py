"""Measures the bytes of a ride in Kafka, Elasticsearch and Cloud Storage: `python -m benchmarks.footprint`.

docs/sizing.md uses its figures.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.sinks import NoStorage
from benchmarks.stacks import make_console, start_stack
from infra.local.services import elasticsearch, kafka
from jobs.clients import make_elasticsearch_admin, make_kafka_config
from jobs.files import Folder
from jobs.kafka.claim import Limits, claim
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.publish import Outlet, publish
from jobs.kafka.stage import stage
from jobs.kafka.staged import Manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.rides.compute import compute
from jobs.rides.distance import haversine
from jobs.rides.export import put_gcs
from jobs.rides.index import put_elasticsearch
from jobs.rides.transform import transform
from jobs.rides.vertical import RidesSettings
from jobs.settings import ROOT

console = make_console()


def main(rides: Annotated[int, typer.Option(help="Rides to send, 1 % of them invalid.", min=1000)] = 100_000) -> None:
    """Send rides through a separate Kafka and Elasticsearch, and print their size on disk."""
    with start_stack([kafka.NAME, elasticsearch.NAME], console) as settings:
        _produce(settings, rides)
        storage = NoStorage()
        counts = _move(settings, storage)
        _report(settings, storage, counts)


def _produce(settings: RidesSettings, rides: int) -> None:
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), "--rate", "0", "--seed", "1", "--spread", "59m"]
    command += ["--count", str(rides), "--faulty", "0.01", "--bootstrap-servers", settings.bootstrap_servers]
    subprocess.run(command, check=True)


def _move(settings: RidesSettings, storage: NoStorage) -> dict[str, int]:
    """Price, index and export the rides. Returns the number of messages in each topic."""
    config = make_kafka_config(settings)
    folder = Folder(settings.staging)
    limits = Limits(sys.maxsize, settings.chunk_records, settings.chunk_bytes)

    def staged(topic: str) -> Manifest:
        with open_group_reader(config, topic, f"footprint-{topic}") as reader:
            claimed = claim(config, reader, limits, topic_ids=TopicIds(folder), has_output=lambda _: False)
            if claimed.is_empty:
                raise SystemExit(f"{topic} is empty.")
            return stage(config, reader, claimed, folder.child(topic))[1]

    _, computed = compute(staged(settings.raw_topic), haversine, folder.child("computed"))
    outlet = Outlet(settings.result_topic, settings.dlq_topic, "footprint", "ComputeCostTravel", "TRANSFORMATION")
    published = publish(config, computed, outlet)
    results = staged(settings.result_topic)
    _, transformed = transform(results, folder.child("transformed"))
    put_elasticsearch(
        make_elasticsearch_admin(settings), settings.rides_index, results, transformed, folder.child("indexed")
    )
    put_gcs(storage, "nowhere", settings.gcs_prefix, results)
    return {
        settings.raw_topic: computed.records,
        settings.result_topic: published.results,
        settings.dlq_topic: published.rejects.total(),
    }


def _report(settings: RidesSettings, storage: NoStorage, counts: dict[str, int]) -> None:
    table = Table("what", "count", "bytes", "bytes each")
    row = partial(_row, table)
    for topic, count in counts.items():
        logs = settings.datastream_state.glob(f"kafka/**/{topic}-*/*.log")
        row(f"{topic} on Kafka's disk", count, sum(path.stat().st_size for path in logs))
    client = make_elasticsearch_admin(settings)
    index = settings.rides_index
    client.indices.forcemerge(index=index, max_num_segments=1, flush=True)
    client.indices.refresh(index=index)  # deletes the merged segments
    primaries: dict[str, Any] = client.indices.stats(index=index, metric=["store", "docs"])["_all"]["primaries"]
    row("documents in Elasticsearch, merged", primaries["docs"]["count"], primaries["store"]["size_in_bytes"])
    size = sum(stored.size for stored in storage.objects)
    row(f"rows in Parquet, {len(storage.objects)} objects", storage.rows, size)
    staged = (settings.datastream_state / "staging").glob("*/*.arrow")
    staged_bytes = sum(path.stat().st_size for path in staged if path.parent.name in {settings.raw_topic, "computed"})
    row("messages staged by one run of dag_compute_cost", counts[settings.raw_topic], staged_bytes)
    console.print(table)


def _row(table: Table, what: str, count: int, size: int) -> None:
    table.add_row(what, f"{count:,}", f"{size:,}", f"{size / count:,.1f}")


if __name__ == "__main__":
    typer.run(main)
