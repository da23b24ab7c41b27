"""Repeat produce, wait and ledger: `make test-rounds`, `python -m tests.rounds --help`.

Each round has new topics on services that keep running; every other one runs with all cores loaded. A `wait` that ends
too early, or a ledger that is not balanced then, fails the round. Whole demos with new services follow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tenacity import retry, retry_if_exception_type, stop_after_delay

from benchmarks.stacks import start_stack
from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.services import airflow
from infra.local.services.catalog import local_stack
from jobs.airflow_api import sign_in
from jobs.clients import make_elasticsearch_admin
from jobs.errors import ServiceUnavailableError
from jobs.rides.vertical import VERTICAL as RIDES
from jobs.settings import LOOPBACK, ROOT, Settings

console = Console()

# The Variables of a round's topics. They are not in Airflow's environment, where they could not change.
VARIABLES = ("RAW_TOPIC", "RESULT_TOPIC", "DLQ_TOPIC", "GCS_PREFIX")
PRODUCE = ("produce", "--rate", "0", "--faulty", "0.01", "--duplicates", "0.005", "--spread", "2h")
_KEPT = ("HOME", "LANG", "PATH", "TMPDIR", "XDG_CACHE_HOME", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "SSL_CERT_FILE")
_TIMEOUT_S = 600


def main(
    rounds: Annotated[int, typer.Option(help="Of produce, wait, ledger.", min=0)] = 10,
    demos: Annotated[int, typer.Option(help="Whole demos, each from an empty state.", min=0)] = 1,
    rides: Annotated[int, typer.Option(help="How many rides each of them sends.", min=100)] = 2_000,
) -> None:
    """Print the number of failures; exit code 1 if there are any."""
    began = time.monotonic()
    failures: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        counts: Counter[str] = Counter()
        for kind, outcomes in (("rounds", _rounds(rounds, rides)), ("demos", _demos(demos, rides))):
            bar = bars.add_task(kind, total=rounds if kind == "rounds" else demos)
            for fault in outcomes:
                counts[kind] += 1
                bars.advance(bar)
                if fault:
                    failures.append(f"{kind} {counts[kind]}: {fault}")
                    console.print(f"[red]✗[/] {escape(failures[-1])}", soft_wrap=True)
    minutes = (time.monotonic() - began) / 60
    console.print(
        f"{counts['rounds']} rounds, {counts['demos']} demos, {len(failures)} failures in {minutes:.0f} minutes",
        soft_wrap=True,
    )
    raise typer.Exit(1 if failures else 0)


def _rounds(count: int, rides: int) -> Iterator[str]:
    """The fault of each round; empty if there is no fault."""
    if not count:
        return
    with _stack() as settings:
        for number in range(count):
            here = settings.model_copy(
                update={
                    "raw_topic": f"raw-{number}",
                    "result_topic": f"result-{number}",
                    "dlq_topic": f"dlq-{number}",
                    "gcs_prefix": f"round-{number}/",
                }
            )
            make_elasticsearch_admin(settings).indices.delete(index=settings.rides_index, ignore_unavailable=True)
            with _load(os.cpu_count() or 1 if number % 2 else 0):
                yield _round(here, rides)


def _round(here: Settings, rides: int) -> str:
    variables = export_settings(here)
    _jobs(variables, "topics")
    _set_variables(here, variables)
    _jobs(variables, *PRODUCE, "--count", str(rides))
    for command in ("wait", "ledger"):
        done = _run(variables, sys.executable, "-m", "jobs", command)
        if done.returncode:
            return f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return ""


def _demos(count: int, rides: int) -> Iterator[str]:
    for _ in range(count):
        settings = isolated_settings(gcs_bucket="datastream")
        variables = export_settings(settings)
        try:
            done = _run(variables, "make", "demo", f"RIDES={rides}")
            yield f"ended with {done.returncode}: {done.stdout}{done.stderr}" if done.returncode else ""
        finally:
            local_stack(settings).down()
            shutil.rmtree(settings.datastream_state, ignore_errors=True)


@contextmanager
def _stack() -> Iterator[Settings]:
    """All services, with both DAGs unpaused. Topics come from Airflow's database."""
    whole = airflow.airflow_environment

    def without_topics(wanted: Settings) -> dict[str, str]:
        hidden = {f"AIRFLOW_VAR_{name}" for name in VARIABLES}
        return {name: value for name, value in whole(wanted).items() if name not in hidden}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(airflow, "airflow_environment", without_topics)
        patch.setenv("POLL_WAIT_S", "1")
        with start_stack(RIDES.services, console) as settings:
            variables = export_settings(settings)
            _set_variables(settings, variables)
            _jobs(variables, "unpause")
            yield settings


# Airflow on SQLite may let a writer wait for longer than the client does while its DAGs are parsed for the first time.
@retry(retry=retry_if_exception_type(ServiceUnavailableError), stop=stop_after_delay(180), reraise=True)
def _set_variables(settings: Settings, variables: Mapping[str, str]) -> None:
    with sign_in(settings) as (session, url):
        where = f"{url.removesuffix('/dags')}/variables"
        for name in VARIABLES:
            body = {"key": name, "value": variables[name]}
            answer = session.patch(f"{where}/{name}", json=body, timeout=30)
            if answer.status_code == 404:
                answer = session.post(where, json=body, timeout=30)
            answer.raise_for_status()


@contextmanager
def _load(cores: int) -> Iterator[None]:
    """Keep a number of cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _jobs(variables: Mapping[str, str], *arguments: str) -> None:
    done = _run(variables, sys.executable, "-m", "jobs", *arguments)
    if done.returncode:
        raise SystemExit(f"python -m jobs {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def _run(variables: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    direct = {"NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK, "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=Path(ROOT), env=kept | dict(variables) | direct,
        text=True, capture_output=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
