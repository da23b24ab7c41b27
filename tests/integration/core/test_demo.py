"""`make demo` as a user runs it: the whole stack with Airflow's scheduler, on free ports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from infra.local.runner import ports
from jobs.settings import ROOT
from jobs.verticals import merge_settings
from tests.testkit.stack import guarded

pytestmark = pytest.mark.timeout(600)

RIDES = 3_000
LEDGER_KEYS = {
    "raw",
    "result",
    "duplicates",
    "dlq",
    "dlq_by_reason",
    "refused",
    "pending",
    "elasticsearch",
    "parquet",
    "balanced",
}

# What users' shells had when something failed. They also lacked HOME, USER and LANG.
HOSTILE = {
    "NO_PROXY": "localhost,127.0.0.1,fd00::/8",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "PYTHONIOENCODING": "latin-1",
    "PYTHONSAFEPATH": "1",
    "PYTHONHOME": "/another/python",
    "PIP_USER": "1",
    "AIRFLOW_HOME": "/another/airflow",
    "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor",
    "JAVA_TOOL_OPTIONS": "-XX:NoSuchOption",
}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ds-démo-")).resolve()
    with guarded(folder):
        yield folder


@pytest.fixture(scope="module")
def run(state: Path) -> Run:
    """Runs a command of the Makefile or of `python -m` on this stack."""
    kafka, elasticsearch, gcs, airflow = ports.find_free(4)
    # Variables that other tests set for their stack must not reach this one.
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR")}
    inherited |= {name: value for name, value in os.environ.items() if "CERT" in name or "PROXY" in name.upper()}
    inherited |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "XDG_"))}
    # Nor must the .env of this checkout.
    defaults = {
        name.upper(): str(field.default) for name, field in merge_settings().model_fields.items() if field.default
    }
    environment = (
        inherited
        | defaults
        | {
            "GCS_BUCKET": "datastream",
            "CLOUD_STORAGE": "emulator",
            "DATASTREAM_STATE": str(state),
            "KAFKA_PORT": str(kafka),
            "ELASTICSEARCH_PORT": str(elasticsearch),
            "GCS_PORT": str(gcs),
            "AIRFLOW_PORT": str(airflow),
            "COLUMNS": "200",
        }
    )

    def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        # make drops what would keep Python itself from starting.
        hostile = HOSTILE if command[0] == "make" else {}
        done = subprocess.run(
            command, cwd=ROOT, env=environment | hostile, text=True, capture_output=True, timeout=400, check=False
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    call.airflow_port = airflow  # type: ignore[attr-defined]
    return call


@pytest.fixture(scope="module")
def demo(run: Run) -> str:
    """What the first `make demo` printed."""
    done = run("make", "demo", f"RIDES={RIDES}")
    return done.stdout + done.stderr


def ledger(state: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((state / "ledger.json").read_text())
    return content


def test_the_ledger_of_the_demo_balances(demo: str, state: Path) -> None:
    figures = ledger(state)
    assert set(figures) >= LEDGER_KEYS
    assert figures["balanced"] is True
    assert figures["pending"] == figures["refused"] == 0
    assert figures["raw"] == RIDES == figures["result"] + figures["dlq"]
    assert figures["parquet"] == figures["result"]
    assert figures["elasticsearch"] == figures["result"] - figures["duplicates"]
    assert figures["duplicates"] > 0
    assert sum(figures["dlq_by_reason"].values()) == figures["dlq"] > 0
    assert "balanced" in demo


def test_demo_writes_the_report(demo: str, state: Path) -> None:
    assert "Rides per minute" in (state / "report.html").read_text()


def test_airflow_responds_and_the_ride_dags_are_unpaused(demo: str, run: Run) -> None:
    url = f"http://127.0.0.1:{run.airflow_port}"
    token = requests.post(f"{url}/auth/token", json={"username": "admin", "password": "admin"}, timeout=30).json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    dags = requests.get(f"{url}/api/v2/dags", headers=headers, timeout=30).json()["dags"]
    assert {dag["dag_id"]: dag["is_paused"] for dag in dags} == {
        "dag_clean_flights": True,
        "dag_collect_flights": True,
        "dag_collect_weather": True,
        "dag_compute_cost": False,
        "dag_forecast_revenue": True,
        "dag_import_csv": True,
        "dag_index_and_export": False,
        "dag_load_transactions": True,
        "dag_scrape_departures": True,
        "dag_zones_score": True,
        "dag_zones_train": True,
        "dbt_transform": True,
    }
    assert requests.get(f"{url}/api/v2/importErrors", headers=headers, timeout=30).json()["total_entries"] == 0


def test_the_playbook_runs_on_the_demo_rides(demo: str, run: Run, state: Path) -> None:
    printed = run("make", "bqml").stdout
    zones = json.loads((state / "zones.json").read_text())
    assert sum(part["rides"] for part in zones["revenue"]) == ledger(state)["elasticsearch"]
    assert f"{sum(part['revenue'] for part in zones['revenue']):,.2f}" in printed
    assert len(zones["zones"]) == 8
    assert "<h2>Revenue by zone and comfort</h2>" in (state / "report.html").read_text()


def test_trace_shows_a_ride_in_every_system(demo: str, run: Run, state: Path) -> None:
    ride_id = ledger(state)["sample_result"]["ride_id"]
    traced = run(sys.executable, "-m", "jobs", "trace", ride_id).stdout
    for place in ("rides_raw", "rides_result", "Elasticsearch rides", "Parquet"):
        assert place in traced
    # And the log lines of the runs that processed it.
    for dag, topic in (("dag_compute_cost", "rides_raw"), ("dag_index_and_export", "rides_result")):
        assert re.search(rf"log  {dag}, run \S+\n.* ConsumeKafka: Claimed {topic}\[\d\]", traced)


def test_dead_letters_are_shown_and_replayed_once(demo: str, run: Run, state: Path) -> None:
    dead = ledger(state)["dlq"]
    assert "rides_raw[" in run("make", "dlq").stdout
    assert f"{dead} dead letters went back to rides_raw" in run("make", "dlq-replay").stdout
    run(sys.executable, "-m", "jobs", "wait", "--timeout", "120")
    run("make", "ledger")
    figures = ledger(state)
    assert (figures["replayed"], figures["dlq"], figures["balanced"]) == (dead, 2 * dead, True)
    assert "0 in all" in run("make", "dlq-replay").stdout


def test_demo_can_be_run_again(demo: str, run: Run, state: Path) -> None:
    before = ledger(state)
    again = run("make", "demo", f"RIDES={RIDES}").stdout
    figures = ledger(state)
    assert figures["raw"] == before["raw"] + RIDES
    assert figures["balanced"] is True
    assert "already running" in again


def test_the_readme_shows_the_output_of_the_demo(demo: str) -> None:
    block = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    printed = {shape(line) for line in demo.splitlines()}
    shown = [line for line in block[1].splitlines() if line.strip() and line.strip() != "…"]
    assert len(shown) > 20
    assert [line for line in shown if shape(line) not in printed] == []


def shape(line: str) -> str:
    """A line without the parts that differ between runs: figures, bars, column widths, ids and paths."""
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", line)
    line = re.sub(r"\S*/(report\.html|ledger\.json|logs)", r"\1", line)
    line = re.sub(r"[━┃│┏┓┗┛┡┩└┘┳╇┴╋─┌┐]+", " ", line)
    line = re.sub(r"\d[\d,.:/-]*", "#", line)
    return re.sub(r"\s+", " ", line).strip()
