"""The DAG dbt_transform, run by dag.test() of a real Airflow, in a process with Airflow's own environment."""

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
from jobs.shop.database import LOADER, READER, connect

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("dbt_environment")]

TASKS = ["source_freshness", "dbt_run", "dbt_test"]

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
bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
dag = bag.dags["dbt_transform"]
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
    outcomes.append({"tasks": tries, "metrics": dict(metrics), "schedule": dag.timetable.expression})
print(json.dumps({"errors": {str(k): v for k, v in bag.import_errors.items()}, "outcomes": outcomes}), file=sys.stderr)
"""


def run_dag(settings: Any, *runs: tuple[str, dict[str, str]]) -> tuple[list[dict[str, Any]], str]:
    """Run the DAG once for each statement that comes before it; returns the outcomes, and the log of all runs."""
    paths = Paths(settings.datastream_state)
    variables = {**make_base(paths), **airflow_environment(settings)}
    variables["PYTHONPATH"] += os.pathsep + str(ROOT / "airflow" / "plugins")
    home = Path(variables["AIRFLOW_HOME"])
    home.mkdir(exist_ok=True)
    for arguments in (["-m", "airflow", "db", "migrate"], ["-c", PROGRAM]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=home, env=variables, input=json.dumps(runs), capture_output=True,
            text=True, check=False, timeout=350,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    last = json.loads(done.stderr.splitlines()[-1])
    assert not [file for file in last["errors"] if "dbt" in file], last["errors"]
    return last["outcomes"], done.stdout + done.stderr


def test_the_dag_transforms_and_names_what_fails(warehouse: Any) -> None:
    with connect(warehouse, LOADER) as database:
        database.execute("insert into raw.clients values (1, 'Ada', 'Lyon', '2025-01-01')")
        database.execute("insert into raw.produits values (1, 'Tea', 'drinks', 4.99)")
        database.execute(
            "insert into raw.transactions_raw (transaction_id, client_id, produit_id, montant, date, statut) "
            "values ('a', 1, 1, 1, now(), 'success'), ('b', 1, 1, 0, now(), 'success')"
        )
    too_old = "update raw.transactions_raw set ingested_at = ingested_at - interval '61 minutes'"
    (good, old, off), log = run_dag(warehouse, ("", {}), (too_old, {}), ("", {"SHOP_POSTGRES_PORT": "1"}))

    assert good["schedule"] == "0 0 * * *"
    assert good["tasks"] == {task: ["success", 1] for task in TASKS}
    assert good["metrics"]["datastream.dbt.nodes.success"] >= 10
    assert good["metrics"]["datastream.dbt.nodes.pass"] >= 30
    with connect(warehouse, READER) as database:
        assert database.execute("select transaction_id from marts.fct_transactions").fetchall() == [("a",)]
        statement = "select command, count(distinct invocation_id) from ops.dbt_results group by command, run_id"
        commands = sorted((command.split()[0], count) for command, count in database.execute(statement))
    assert commands == [("build", 1), ("source", 1), ("source", 1), ("test", 1)]

    # A failed check names itself and is not tried again; nothing is transformed.
    assert old["tasks"]["source_freshness"] == ["failed", 1]
    assert [old["tasks"][task][0] for task in TASKS[1:]] == ["upstream_failed", "upstream_failed"]
    assert old["metrics"]["datastream.dbt.nodes.error"] == 1
    assert "1 of 1 failed: shop.transactions_raw: the newest row is" in log

    # A database that does not answer is tried again, and the profile is named.
    assert off["tasks"]["source_freshness"] == ["failed", 3]
    assert "127.0.0.1:1 does not answer" in log
    assert "docker compose --profile shop up" in log
