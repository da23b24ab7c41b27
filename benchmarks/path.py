"""Runs one task of dag_compute_cost, as Airflow does: `python -m benchmarks.path TASK ROUTE RUN URL`.

Its answer is the URL of its manifest and the number of messages.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Not used here, but every task imports it: it is part of the memory, and it imports airflow/config.
import airflow.sdk  # noqa: F401

from benchmarks.measured import answer, measured
from benchmarks.route import Route, name_dead_letters
from jobs.files import Folder
from jobs.kafka.claim import Limits, claim
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.publish import Outlet, publish
from jobs.kafka.stage import stage
from jobs.kafka.staged import read_manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.rides.compute import compute
from jobs.rides.distance import find_distance_function
from jobs.settings import Settings


def consume_kafka(route: Route, run: str, _: str) -> tuple[str, int]:
    folder = _folder(route).child(run, "ConsumeKafka")
    config = {"bootstrap.servers": route.bootstrap_servers}
    limits = Limits.from_settings(Settings.model_construct())
    with open_group_reader(config, route.source, route.target) as reader:
        claimed = claim(config, reader, limits, topic_ids=TopicIds(_folder(route)), has_output=lambda _: False)
        if claimed.is_empty:
            return "", 0
        url, manifest = stage(config, reader, claimed, folder)
    return url, manifest.records


def compute_cost_travel(route: Route, run: str, url: str) -> tuple[str, int]:
    folder = _folder(route).child(run, "ComputeCostTravel")
    computed_url, computed = compute(read_manifest(url), find_distance_function("haversine"), folder)
    return computed_url, computed.records


def publish_kafka(route: Route, run: str, url: str) -> tuple[str, int]:
    outlet = Outlet(route.target, name_dead_letters(route.target), "benchmark", "ComputeCostTravel", "TRANSFORMATION")
    published = publish({"bootstrap.servers": route.bootstrap_servers}, read_manifest(url), outlet)
    _folder(route).child(run).delete()
    return "", published.results + published.rejects.total()


def _folder(route: Route) -> Folder:
    return Folder(Path(route.folder).as_uri())


TASKS = {"ConsumeKafka": consume_kafka, "ComputeCostTravel": compute_cost_travel, "PublishKafka": publish_kafka}

if __name__ == "__main__":
    name, text, run, url = sys.argv[1:]
    task, route = TASKS[name], Route.from_json(text)
    with measured():
        result = task(route, run, url)
    answer(result)
