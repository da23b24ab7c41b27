"""The compute-and-publish path as dag_compute_cost runs it: one process per task, claim checks in between."""

from __future__ import annotations

import msgspec

from jobs.kafka.consume import Limits, stage
from jobs.kafka.publish import Outlet, publish
from jobs.rides.compute import compute
from jobs.rides.distance import distance_function
from jobs.settings import Settings
from jobs.staging import Folder, read_manifest


class Route(msgspec.Struct, frozen=True):
    """Where one measured pass reads and writes."""

    bootstrap_servers: str
    source: str
    target: str
    group: str
    staging: str

    @property
    def config(self) -> dict[str, str]:
        return {"bootstrap.servers": self.bootstrap_servers}


def consume_kafka(route: Route, run: str) -> tuple[str, int]:
    """ConsumeKafka: URL of the manifest and number of messages; an empty URL when there is nothing left."""
    defaults = Settings.model_construct()
    limits = Limits(defaults.max_records_per_run, defaults.chunk_records, defaults.chunk_bytes)
    folder = Folder(route.staging).child(run, "ConsumeKafka")
    staged = stage(
        route.config, route.source, route.group, folder, limits, wait_s=0, is_planned=False, has_output=lambda _: False
    )
    return staged.url, staged.manifest.records if staged.manifest else 0


def compute_cost_travel(route: Route, run: str, url: str) -> tuple[str, int]:
    """ComputeCostTravel: URL of the manifest and number of messages."""
    folder = Folder(route.staging).child(run, "ComputeCostTravel")
    computed_url, computed = compute(read_manifest(url), distance_function("haversine"), folder)
    return computed_url, computed.records


def publish_kafka(route: Route, run: str, url: str) -> tuple[str, int]:
    """PublishKafka: nothing, and the number of messages published."""
    outlet = Outlet(route.target, route.target, "benchmark", "ComputeCostTravel", "TRANSFORMATION")
    published = publish(route.config, read_manifest(url), outlet)
    Folder(route.staging).child(run).delete()
    return "", published.results + published.rejects.total()
