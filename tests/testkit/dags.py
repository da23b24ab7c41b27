"""Runs of a DAG by dag.test() of a real Airflow, in a process with Airflow's own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from infra.local.runner.environment import make_base
from infra.local.runner.paths import Paths
from infra.local.services.airflow import airflow_environment
from jobs.settings import ROOT

_PROGRAM = """
import json, os, sys
from datetime import timedelta
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.observability.stats import Stats
from jobs.settings import load
from jobs.shop.database import ADMIN, connect
from jobs.shop.vertical import ShopSettings

bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
assert not bag.import_errors, bag.import_errors
dag = bag.dags[sys.argv[1]]
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
        with connect(load(ShopSettings), ADMIN) as database:
            database.execute(statement)
    for task in dag.tasks:
        task.retry_delay = timedelta(seconds=1)
    metrics.clear()
    run = dag.test()
    tries = {one.task_id: [str(one.state), one.try_number] for one in run.get_task_instances()}
    outcomes.append({"tasks": tries, "metrics": dict(metrics)})
described = {
    "order": [task.task_id for task in dag.topological_sort()],
    "schedule": getattr(dag.timetable, "expression", None),
    "outcomes": outcomes,
}
print(json.dumps(described), file=sys.stderr)
"""


class Run(NamedTuple):
    """One run: a statement for the warehouse, and environment variables, to set before it."""

    statement: str = ""
    variables: dict[str, str] = {}  # noqa: RUF012 (never changed)


class Outcome(NamedTuple):
    """What became of each task (its state and the number of its last try), and the counters."""

    tasks: dict[str, list[Any]]
    metrics: dict[str, int]


class Runs(NamedTuple):
    """The DAG's tasks in their order, its schedule, the outcome of each run, and the log of all."""

    order: list[str]
    schedule: str | None
    outcomes: list[Outcome]
    log: str


def run_dag(settings: Any, dag_id: str, *runs: Run, timeout_s: int = 200) -> Runs:
    """Run a DAG several times, one after the other."""
    paths = Paths(settings.datastream_state)
    variables = {**make_base(paths), **airflow_environment(settings)}
    variables["PYTHONPATH"] += os.pathsep + str(ROOT / "airflow" / "plugins")
    home = Path(variables["AIRFLOW_HOME"])
    home.mkdir(exist_ok=True)
    migrate = [] if (home / "airflow.db").exists() else [["-m", "airflow", "db", "migrate"]]
    for arguments in (*migrate, ["-c", _PROGRAM, dag_id]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=home, env=variables, input=json.dumps(runs), capture_output=True,
            text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    described = json.loads(done.stderr.splitlines()[-1])
    outcomes = [Outcome(**outcome) for outcome in described["outcomes"]]
    return Runs(described["order"], described["schedule"], outcomes, done.stdout + done.stderr)
