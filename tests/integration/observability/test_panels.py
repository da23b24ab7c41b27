"""Each panel of Grafana's dashboards shows something: its queries run at the sources, on what real runs have left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from elasticsearch import Elasticsearch

from infra.grafana.catalog import DASHBOARDS
from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.services import prometheus
from infra.local.services.catalog import local_stack
from jobs import airflow_api
from jobs.airflow_api import FailedRunError
from jobs.flights.buffer import open_buffer
from jobs.flights.relay_metrics import RelayMetrics
from jobs.flights.vertical import CLEAN_DAG
from jobs.flights.waiting import wait_until_relayed
from jobs.rides.vertical import COMPUTE_DAG, INDEX_DAG
from jobs.settings import LOOPBACK, ROOT
from jobs.shop.vertical import LOAD_DAG
from tests.testkit.flights import run_relays
from tests.testkit.grafana import Sources, find_empty_queries
from tests.testkit.kafka import Raw, produce
from tests.testkit.stack import guarded

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(prometheus.find_program("prometheus") is None, reason=prometheus.describe_missing("prometheus")),
]

SERVICES = [
    "kafka", "elasticsearch", "gcs", "postgres", "redis", "mysql", "apis", "airflow", "exporter", "prometheus",
]  # fmt: skip
# The browser is left out, as in `make test`.
COLLECTING = ("dag_collect_flights", "dag_collect_weather", "dag_import_csv")
# A good flight twice, one with an unknown status, one that arrives before it departs.
CSV = """\
observed_at,airline,number,flight_date,departure_airport,arrival_airport,status,scheduled_departure,scheduled_arrival
2026-01-05T12:00:00Z,AF,718,2026-01-05,CDG,DSS,scheduled,2026-01-05T16:00:00+01:00,2026-01-05T21:00:00Z
2026-01-05T12:00:00Z,AF,718,2026-01-05,CDG,DSS,scheduled,2026-01-05T16:00:00+01:00,2026-01-05T21:00:00Z
2026-01-05T12:00:00Z,AF,719,2026-01-05,CDG,DSS,lost,2026-01-05T16:00:00+01:00,2026-01-05T21:00:00Z
2026-01-05T12:00:00Z,AF,720,2026-01-05,CDG,DSS,scheduled,2026-01-05T16:00:00+01:00,2026-01-05T14:00:00Z
"""
TRAIN_DAG, SCORE_DAG = "dag_zones_train", "dag_zones_score"
RUN_S = 240
FILLED_S = 120


@dataclass(frozen=True)
class Watched:
    """A stack with Prometheus. Rides, transactions and flights have passed through, good and bad; zones are scored."""

    settings: Any
    sources: Sources


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    settings: Any = isolated_settings(
        gcs_bucket="datastream",
        poll_wait_s=2,
        export_target_records=100,
        observability_ledger_minutes=0.5,
        flights_csv_folder=write_csv(tmp_path_factory.mktemp("csv")),
    )
    configure = prometheus.make_prometheus_configuration

    def configure_as_in_docker(*arguments: Any) -> str:
        configuration = yaml.safe_load(configure(*arguments))
        target = {"static_configs": [{"targets": [f"{LOOPBACK}:{settings.flights_relay_port}"]}]}
        configuration["scrape_configs"].append({"job_name": "flights-relay", **target})
        return yaml.safe_dump(configuration)

    services = [*SERVICES, *(["alertmanager"] if prometheus.find_program("alertmanager") else [])]
    with pytest.MonkeyPatch.context() as patch, guarded(settings.datastream_state):
        patch.setattr(prometheus, "INTERVAL", "3s")
        patch.setattr(prometheus, "make_prometheus_configuration", configure_as_in_docker)
        local_stack(settings).up(services)
        began = time.monotonic()
        run_jobs(settings, "topics")
        with relaying(settings):
            fill(settings)
            fill_flights(settings)
            print(f"filled in {time.monotonic() - began:.0f} s")
            prometheus_url = f"http://{LOOPBACK}:{settings.observability_prometheus_port}"
            yield Watched(settings, Sources(prometheus_url, Elasticsearch(settings.es_url)))


def write_csv(folder: Path) -> Path:
    file = folder / "flights.csv"
    file.write_text(CSV)
    os.utime(file, (1_760_000_000, 1_760_000_000))
    return folder


@contextmanager
def relaying(settings: Any) -> Iterator[None]:
    """A relay that Prometheus scrapes, with MySQL as its only store."""
    stopped = threading.Event()
    metrics = RelayMetrics(LOOPBACK, settings.flights_relay_port)

    def relay_until_stopped() -> None:
        with run_relays(settings) as relays, open_buffer(settings) as buffer:
            while not stopped.is_set():
                for relay in relays:
                    metrics.count(relay, relay.relay())
                metrics.note_pass(relays, buffer)

    thread = threading.Thread(target=relay_until_stopped, name="relay")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(30)


def run_jobs(settings: Any, *arguments: str) -> None:
    environment = {**os.environ, **export_settings(settings)}
    command = [sys.executable, "-m", "jobs", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


def run_dag(settings: Any, dag_id: str) -> None:
    airflow_api.unpause(settings, [dag_id])
    airflow_api.wait_for_run(settings, dag_id, airflow_api.trigger(settings, dag_id, {}), RUN_S)


def fill_flights(settings: Any) -> None:
    """Give the panels of the flights something to show."""
    for dag_id in COLLECTING:
        run_dag(settings, dag_id)
    wait_until_relayed(settings, 60)
    run_dag(settings, CLEAN_DAG)


def fill(settings: Any) -> None:
    """Give all other panels something to show."""

    def run(*arguments: str) -> None:
        run_jobs(settings, *arguments)

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
        run_dag(settings, dag_id)


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
    assert seen["exporter", "redis"] is seen["exporter", "mysql"] is seen["Prometheus", "flights-relay"] is True
    assert {COMPUTE_DAG, INDEX_DAG, LOAD_DAG, CLEAN_DAG} <= {group["group"] for group in status["groups"]}
    dags = {dag["dag_id"]: dag for dag in status["dags"]}
    assert dags[SCORE_DAG]["last_run"]["state"] == "success"
    assert dags[COMPUTE_DAG]["fresh_within_s"] > 0
    letters = {letters["topic"]: letters for letters in status["dead_letters"]}
    assert letters["rides_dlq"]["offsets"] >= sum(letters["rides_dlq"]["reasons"].values()) > 1
    assert "rides" in {ledger["vertical"] for ledger in status["ledgers"]}
    alerts = {alert["name"] for alert in status["alerts"]}
    assert "DagRunFailed" in alerts
    assert "StatsdErrors" not in alerts
