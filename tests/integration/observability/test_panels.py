"""Each panel of Grafana's dashboards shows something: its queries run at the sources, on what real runs have left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from elasticsearch import Elasticsearch

from infra.grafana.catalog import DASHBOARDS
from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.services import prometheus
from infra.local.services.catalog import local_stack
from jobs import airflow_api
from jobs.airflow_api import FailedRunError
from jobs.rides.vertical import COMPUTE_DAG, INDEX_DAG
from jobs.settings import LOOPBACK, ROOT
from jobs.shop.vertical import LOAD_DAG
from tests.testkit.grafana import Sources, find_empty_queries
from tests.testkit.kafka import Raw, produce
from tests.testkit.stack import guarded

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(prometheus.find_program("prometheus") is None, reason=prometheus.describe_missing("prometheus")),
]

SERVICES = ["kafka", "elasticsearch", "gcs", "postgres", "airflow", "exporter", "prometheus"]
TRAIN_DAG, SCORE_DAG = "dag_zones_train", "dag_zones_score"
RUN_S = 240
FILLED_S = 120


@dataclass(frozen=True)
class Watched:
    """A stack with Prometheus. Rides and transactions have passed through, good and bad ones; zones are scored."""

    settings: Any
    sources: Sources


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    settings: Any = isolated_settings(
        gcs_bucket="datastream", poll_wait_s=2, export_target_records=100, observability_ledger_minutes=0.5
    )
    services = [*SERVICES, *(["alertmanager"] if prometheus.find_program("alertmanager") else [])]
    with pytest.MonkeyPatch.context() as patch, guarded(settings.datastream_state):
        patch.setattr(prometheus, "INTERVAL", "3s")
        local_stack(settings).up(services)
        began = time.monotonic()
        fill(settings)
        print(f"filled in {time.monotonic() - began:.0f} s")
        sources = Sources(f"http://{LOOPBACK}:{settings.observability_prometheus_port}", Elasticsearch(settings.es_url))
        yield Watched(settings, sources)


def fill(settings: Any) -> None:
    """Give every panel something to show."""
    environment = {**os.environ, **export_settings(settings)}

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "jobs", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"

    run("topics")
    run("template")
    run("produce", "--rate", "0", "--count", "1000", "--faulty", "0.1", "--spread", "10m")
    run("shop", "generate", "--to", "kafka", "--rate", "0", "--count", "200", "--faulty", "0.1")
    airflow_api.unpause(settings, [COMPUTE_DAG, INDEX_DAG, LOAD_DAG, SCORE_DAG])
    # It fails, because no model is trained yet.
    failing = airflow_api.trigger(settings, SCORE_DAG, {})
    run("wait", "rides")
    # The sinks refuse it. An earlier one would look like the result of a group that has lost its offsets.
    produce({"bootstrap.servers": settings.bootstrap_servers}, settings.result_topic, [Raw(b"no result", b"key")])
    run("wait", "rides")
    run("wait", "shop")
    with pytest.raises(FailedRunError):
        airflow_api.wait_for_run(settings, SCORE_DAG, failing, RUN_S)
    for dag_id in (TRAIN_DAG, SCORE_DAG):
        airflow_api.unpause(settings, [dag_id])
        airflow_api.wait_for_run(settings, dag_id, airflow_api.trigger(settings, dag_id, {}), RUN_S)


def test_every_panel_shows_something(watched: Watched) -> None:
    deadline = time.monotonic() + FILLED_S
    empty = find_empty_queries(watched.sources)
    while empty and time.monotonic() < deadline:
        time.sleep(3)
        empty = find_empty_queries(watched.sources)
    assert empty == []


def test_every_variable_has_choices(watched: Watched) -> None:
    for dashboard in DASHBOARDS:
        for variable in dashboard.variables:
            assert watched.sources.list_label_values(variable.to_json()), f"{dashboard.name}: {variable.label}"


def test_the_status_shows_the_stack(watched: Watched) -> None:
    environment = {**os.environ, **export_settings(watched.settings)}
    command = [sys.executable, "-m", "jobs", "status", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    seen = {(part["seen_by"], part["name"]): part["is_up"] for part in status["parts"]}
    assert (
        seen["exporter", "kafka"] is seen["supervisor", "airflow-scheduler"] is seen["Prometheus", "datastream"] is True
    )
    assert {COMPUTE_DAG, INDEX_DAG, LOAD_DAG} <= {group["group"] for group in status["groups"]}
    dags = {dag["dag_id"]: dag for dag in status["dags"]}
    assert dags[SCORE_DAG]["last_run"]["state"] == "success"
    assert dags[COMPUTE_DAG]["fresh_within_s"] > 0
    letters = {letters["topic"]: letters for letters in status["dead_letters"]}
    assert letters["rides_dlq"]["offsets"] >= sum(letters["rides_dlq"]["reasons"].values()) > 1
    assert "rides" in {ledger["vertical"] for ledger in status["ledgers"]}
    assert "DagRunFailed" in {alert["name"] for alert in status["alerts"]}
