"""The DAG dag_load_transactions, run by dag.test() of a real Airflow, in a process with Airflow's own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.local.runner.environment import make_base
from infra.local.runner.paths import Paths
from infra.local.services.airflow import airflow_environment
from jobs.settings import ROOT
from jobs.shop.vertical import LOAD_GROUP
from tests.testkit.shop import Loading, transaction

pytestmark = pytest.mark.timeout(300)

TASKS = ["ConsumeKafka", "LoadTransactions", "PublishDeadLetters"]

# Before each run: a statement for the warehouse, environment variables. After it: what became of the tasks.
PROGRAM = """
import json, os, sys
from datetime import timedelta
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.observability.stats import Stats
from jobs.settings import load
from jobs.shop.database import ADMIN, connect
from jobs.shop.vertical import ShopSettings

settings = load(ShopSettings)
dag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags["dag_load_transactions"]
# Airflow 3.3's dag.test() takes a deadline's definition for its id when the run is done, and fails.
dag.deadline = None
metrics = {}
def count(name, count=1, *_, tags=None, **__):
    name = ".".join([name, *(tags or {}).values()])
    metrics[name] = metrics.get(name, 0) + count
Stats.incr = count
outcomes = []
for statement, variables in json.load(sys.stdin):
    os.environ.update(variables)
    if statement:
        with connect(settings, ADMIN) as database:
            database.execute(statement)
    for task in dag.tasks:
        task.retry_delay = timedelta(seconds=1)
    metrics.clear()
    run = dag.test()
    tries = {one.task_id: [str(one.state), one.try_number] for one in run.get_task_instances()}
    outcomes.append({"tasks": tries, "metrics": dict(metrics)})
order = [task.task_id for task in dag.topological_sort()]
print(json.dumps({"order": order, "outcomes": outcomes}), file=sys.stderr)
"""


def run_dag(settings: Any, *runs: tuple[str, dict[str, str]]) -> tuple[dict[str, Any], str]:
    """Run the DAG once for each statement that comes before it; returns the outcomes, and the log of all runs."""
    paths = Paths(settings.datastream_state)
    variables = {**make_base(paths), **airflow_environment(settings)}
    variables["PYTHONPATH"] += os.pathsep + str(ROOT / "airflow" / "plugins")
    home = Path(variables["AIRFLOW_HOME"])
    home.mkdir(exist_ok=True)
    for arguments in (["-m", "airflow", "db", "migrate"], ["-c", PROGRAM]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=home, env=variables, input=json.dumps(runs), capture_output=True,
            text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return json.loads(done.stderr.splitlines()[-1]), done.stdout + done.stderr


def test_the_dag_loads_repairs_and_names_what_is_off(loading: Loading) -> None:
    loading.group = LOAD_GROUP
    loading.settings = loading.settings.model_copy(update={"poll_wait_s": 1})
    # A run was killed after the database decided: its dead letter is not published.
    loading.send(b"bad, too")
    loading.load(loading.staged())
    assert loading.dead_letters() == []
    content = transaction(statut="pending")
    loading.send(transaction(), content, content | {"statut": "success", "updated_at": "2026-11-02T00:00:00Z"}, b"bad")
    results, log = run_dag(loading.settings, ("", {}), ("", {}), ("", {"SHOP_POSTGRES_PORT": "1"}))
    loaded, nothing_new, off = results["outcomes"]

    assert results["order"] == TASKS
    assert loaded["tasks"] == {task: ["success", 1] for task in TASKS}
    assert loaded["metrics"] == {
        "datastream.shop.inserted": 2, "datastream.shop.updated": 1, "datastream.shop.repeated": 0,
        "datastream.shop.stale": 0, "datastream.shop.refused.invalid_json": 1,
    }  # fmt: skip
    assert "Loaded 4 messages: 2 inserted, 1 updated, 0 repeated, 0 stale, 1 refused (1 invalid_json)" in log
    assert loading.query("SELECT statut FROM raw.transactions_raw") == [("success",), ("success",)]
    assert "published 1 dead letters: a run was killed" in log
    letters = loading.dead_letters()
    assert sorted(letter.value or b"" for letter in letters) == [b"bad", b"bad, too"]
    for letter in letters:
        assert letter.error["connector.name"] == "dag_load_transactions"
        assert (letter.error["task.id"], letter.error["stage"]) == ("LoadTransactions", "TASK_PUT")
    assert {p: o for p, o in loading.group_offsets().items() if o is not None} == loading.positions()

    assert nothing_new["tasks"] == {"ConsumeKafka": ["skipped", 1], **{task: ["skipped", 0] for task in TASKS[1:]}}

    # A database that does not answer is tried again, and the profile is named.
    assert off["tasks"]["ConsumeKafka"] == ["failed", 3]
    assert "docker compose --profile shop up" in log
