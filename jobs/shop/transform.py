"""Run dbt, and record in ops.dbt_results what it did. The project is in jobs/shop/dbt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from jobs.environments import Command, find_interpreter
from jobs.errors import CommandError, DatastreamError
from jobs.settings import ROOT
from jobs.shop.database import DBT, connect
from jobs.shop.vertical import VERTICAL, ShopSettings

PROJECT = ROOT / "jobs" / "shop" / "dbt"
# The files that dbt writes below its target folder: https://docs.getdbt.com/reference/artifacts/run-results-json
RUN_RESULTS, SOURCES = "run_results.json", "sources.json"
FAILED = frozenset({"fail", "error", "runtime error", "partial success"})

_INSERT = """
insert into ops.dbt_results
    (invocation_id, unique_id, command, run_id, status, failures, execution_time_s, message, finished_at,
        relation)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (invocation_id, unique_id) do nothing
"""


class FailedTestsError(DatastreamError):
    """Tests failed, or a source is too old: a retry without other data gives the same."""


class Node(msgspec.Struct, frozen=True):
    """What dbt did with a model, a test, a snapshot or a source.

    Attributes:
        status: success, error, skipped, no-op; of tests pass, fail, warn, error; of sources pass, warn, error.
        failures: rows that fail a test.
        relation: the table that holds these rows.
    """

    unique_id: str
    status: str
    execution_time_s: float
    finished_at: datetime
    failures: int | None = None
    message: str | None = None
    relation: str | None = None

    @property
    def name(self) -> str:
        """For example fct_transactions, or shop.transactions_raw of a source."""
        kind, _, *names = self.unique_id.split(".")
        return ".".join(names) if kind == "source" else names[0]

    @property
    def is_check(self) -> bool:
        """Whether its failure is about the data."""
        return (self.unique_id.split(".")[0], self.status) in {("test", "fail"), ("source", "error")}

    def __str__(self) -> str:
        rows = f" ({self.failures} rows in {self.relation})".replace('"', "") if self.failures and self.relation else ""
        # A model's first line is the kind of its error and the model again.
        message = f": {self.message.strip().splitlines()[-1].strip()}" if self.message and not rows else ""
        return f"{self.name}{rows}{message}"


@dataclass(frozen=True)
class Results:
    """What one dbt command did. Without nodes if it ended before it could say so."""

    command: str
    invocation_id: str = ""
    nodes: tuple[Node, ...] = ()
    failure: CommandError | None = None

    def check(self) -> None:
        """
        Raises:
            FailedTestsError: tests failed or a source is too old; the text names them.
            CommandError: dbt failed otherwise; the text names the nodes, or has dbt's last output.
        """
        if self.failure is None:
            return
        failed = [node for node in self.nodes if node.status in FAILED]
        if not failed:
            raise self.failure
        names = "; ".join(map(str, failed))
        text = f"dbt {self.command}: {len(failed)} of {len(self.nodes)} failed: {names}"
        raise FailedTestsError(text) if all(node.is_check for node in failed) else CommandError(self.failure.code, text)


def run_dbt(
    settings: ShopSettings,
    command: Sequence[str],
    run_id: str,
    run: Callable[[Sequence[str], dict[str, str]], None],
    target: Path | None = None,
) -> Results:
    """Run a dbt command, record its results. `Results.check` says whether it failed.

    Args:
        command: dbt's arguments, for example ("run",).
        run_id: names the run in ops.dbt_results.
        run: runs Python in dbt's environment, with these arguments and variables; raises CommandError.
        target: the folder for dbt's files; by default they are deleted.

    Raises:
        ServiceUnavailableError: the database does not answer.
    """
    connect(settings, DBT).close()
    with TemporaryDirectory(prefix="dbt-") as temporary:
        folder = target or Path(temporary)
        for name in (RUN_RESULTS, SOURCES):
            (folder / name).unlink(missing_ok=True)
        results = Results(" ".join(command))
        try:
            run(make_arguments(command, folder), make_variables(settings))
        except CommandError as error:
            results = replace(results, failure=error)
        results = read_results(folder, results)
    record_results(settings, results, run_id)
    return results


def run_command(
    settings: ShopSettings, command: Sequence[str], run_id: str, log: Callable[[str], None], target: Path | None = None
) -> Results:
    """`run_dbt` as a subprocess of this process.

    Args:
        log: receives each line of dbt's output.

    Raises:
        ConfigurationError: dbt is not installed.
    """
    python = find_interpreter(VERTICAL.requirement_set)
    return run_dbt(
        settings,
        command,
        run_id,
        lambda arguments, variables: Command([python, *arguments], variables).run(log),
        target,
    )


def make_arguments(command: Sequence[str], target: Path) -> list[str]:
    """The interpreter's arguments for a dbt command that writes all its files below `target`."""
    folders = ("--project-dir", PROJECT, "--profiles-dir", PROJECT, "--target-path", target, "--log-path", target)
    # Python warns that dbt imports its main module itself.
    start = ("-W", "ignore::RuntimeWarning:runpy", "-m", "dbt.cli.main", "--no-use-colors")
    return [*start, *command, *map(str, folders)]


def make_variables(settings: ShopSettings) -> dict[str, str]:
    """The environment variables that the project reads."""
    return {
        "SHOP_POSTGRES_HOST": settings.shop_host,
        "SHOP_POSTGRES_PORT": str(settings.shop_postgres_port),
        "DBT_ENV_SECRET_SHOP_DBT_PASSWORD": settings.shop_dbt_password,
    }


def read_results(target: Path, results: Results) -> Results:
    """Add what dbt wrote about its last command."""
    for name in (SOURCES, RUN_RESULTS):
        if (target / name).exists():
            content = json.loads((target / name).read_text(encoding="utf-8"))
            generated_at = content["metadata"]["generated_at"]
            nodes = [_read_node(result, generated_at) for result in content["results"]]
            return replace(results, invocation_id=content["metadata"]["invocation_id"], nodes=tuple(nodes))
    return results


def _read_node(result: dict[str, object], generated_at: str) -> Node:
    timing = result.get("timing") or [{"completed_at": generated_at}]
    message = result.get("message") or result.get("error")
    if (age := result.get("max_loaded_at_time_ago_in_s")) is not None:
        message = f"the newest row is {age:.0f} s old"
    return msgspec.convert(
        {
            "unique_id": result["unique_id"],
            "status": result["status"],
            "execution_time_s": result.get("execution_time", 0.0),
            "finished_at": timing[-1]["completed_at"],  # type: ignore[index]
            "failures": result.get("failures"),
            "message": message,
            "relation": result.get("relation_name"),
        },
        Node,
    )


def record_results(settings: ShopSettings, results: Results, run_id: str) -> None:
    """Write one row for each node."""
    rows = [
        (
            results.invocation_id, node.unique_id, results.command, run_id, node.status, node.failures,
            node.execution_time_s, node.message, node.finished_at, node.relation,
        )
        for node in results.nodes
    ]  # fmt: skip
    with closing(connect(settings, DBT)) as database, database, database.cursor() as cursor:
        cursor.executemany(_INSERT, rows)
