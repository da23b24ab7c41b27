"""What Airflow did with the time of its runs and tasks, from its REST API and the tasks' logs."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import requests

from infra.local import paths
from jobs.airflow_api import signed_in
from jobs.settings import Settings

_PAGE = 100
_TIMEOUT_S = 30


class RunTimes(msgspec.Struct, frozen=True):
    """Runs of a DAG that did something. Seconds; medians, and the 95th percentile of the duration.

    `cycle` is from the start of one run to the start of the next, `pause` from the end of one to the start of the next.
    """

    dag_id: str
    runs: int
    skipped: int
    failed: int
    duration: float
    duration_p95: float
    pause: float
    cycle: float


class TaskTimes(msgspec.Struct, frozen=True):
    """Successful tries of a task; median seconds of each phase.

    `wait` is from the end of what the task waited for (for the first task: from when its run was queued) until its
    process is started, `start_up` until its work begins (`parse` of that: parsing the DAG's file), `work` is the
    operator's, `finish` until Airflow has noted the end.
    """

    dag_id: str
    task_id: str
    tries: int
    retried: int
    wait: float
    start_up: float
    parse: float
    work: float
    work_p95: float
    finish: float


class Phases(msgspec.Struct, frozen=True):
    """When a try's work began and ended, and how long parsing the DAG's file took, as its log tells."""

    began: datetime
    ended: datetime
    parse_s: float


def times(settings: Settings, dag_ids: tuple[str, ...], since: datetime) -> tuple[list[RunTimes], list[TaskTimes]]:
    """How the runs since a moment, and their tasks, spent their time."""
    logs = paths.of(settings).logs / "airflow"
    runs, tasks = [], []
    for dag_id in dag_ids:
        with signed_in(settings) as (session, url):
            found = [run for run in _all_of(session, f"{url}/{dag_id}/dagRuns", "dag_runs") if run["end_date"]]
            entries = _all_of(session, f"{url}/{dag_id}/dagRuns/~/taskInstances", "task_instances")
        found = sorted((run for run in found if _time(run["start_date"]) >= since), key=lambda run: run["start_date"])
        tries: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            tries[entry["dag_run_id"]].append(entry)
        # A run that found nothing is skipped as a whole.
        at_work = [run for run in found if any(it["state"] != "skipped" for it in tries[run["dag_run_id"]])]
        if at_work:
            runs.append(_run_times(dag_id, at_work, len(found) - len(at_work)))
        by_task: dict[str, list[tuple[float, float, float, float, float]]] = defaultdict(list)
        retried: dict[str, int] = defaultdict(int)
        for run in at_work:
            for entry in tries[run["dag_run_id"]]:
                retried[entry["task_id"]] += entry["try_number"] > 1
                if entry["state"] == "success" and (found_phases := phases(_log_file(logs, entry))):
                    by_task[entry["task_id"]].append(_spent(run, tries[run["dag_run_id"]], entry, found_phases))
        tasks += [_task_times(dag_id, task_id, spent, retried[task_id]) for task_id, spent in by_task.items()]
    return runs, tasks


def _all_of(session: requests.Session, url: str, key: str) -> list[dict[str, Any]]:
    """Every entry of a collection, page by page."""
    entries: list[dict[str, Any]] = []
    while True:
        answer = session.get(url, params={"limit": _PAGE, "offset": len(entries)}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        page = answer.json()
        entries += page[key]
        if not page[key] or len(entries) >= page["total_entries"]:
            return entries


def _run_times(dag_id: str, runs: list[dict[str, Any]], skipped: int) -> RunTimes:
    starts = [_time(run["start_date"]).timestamp() for run in runs]
    ends = [_time(run["end_date"]).timestamp() for run in runs]
    durations = [end - start for start, end in zip(starts, ends, strict=True)]
    return RunTimes(
        dag_id,
        len(runs),
        skipped,
        sum(run["state"] == "failed" for run in runs),
        statistics.median(durations),
        _p95(durations),
        _median([start - end for start, end in zip(starts[1:], ends, strict=False)]),
        _median([later - start for later, start in zip(starts[1:], starts, strict=False)]),
    )


def _task_times(
    dag_id: str, task_id: str, spent: list[tuple[float, float, float, float, float]], retried: int
) -> TaskTimes:
    wait, start_up, parse, work, finish = map(list, zip(*spent, strict=True))
    medians = (_median(wait), _median(start_up), _median(parse), _median(work))
    return TaskTimes(dag_id, task_id, len(spent), retried, *medians, _p95(work), _median(finish))


def _spent(
    run: dict[str, Any], others: list[dict[str, Any]], entry: dict[str, Any], at: Phases
) -> tuple[float, float, float, float, float]:
    started, ended = _time(entry["start_date"]), _time(entry["end_date"])
    before = [_time(other["end_date"]) for other in others if other["end_date"]]
    ready = max([_time(run["queued_at"]), *(end for end in before if end <= started)])
    return (
        (started - ready).total_seconds(),
        (at.began - started).total_seconds(),
        at.parse_s,
        (at.ended - at.began).total_seconds(),
        (ended - at.ended).total_seconds(),
    )


def _log_file(logs: Path, entry: dict[str, Any]) -> Path:
    folder = logs / f"dag_id={entry['dag_id']}" / f"run_id={entry['dag_run_id']}" / f"task_id={entry['task_id']}"
    return folder / f"attempt={entry['try_number']}.log"


def phases(log: Path) -> Phases | None:
    """The phases of a try by its log; None where it did not end well."""
    began = ended = None
    parse_s = 0.0
    with log.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            match line["event"]:
                case "Worker startup parse complete":
                    parse_s = line["dag_file_parse_ms"] / 1000
                case "::endgroup::" if began is None:
                    began = _time(line["timestamp"])
                case "::group::Post Execute":
                    ended = _time(line["timestamp"])
    return Phases(began, ended, parse_s) if began and ended else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def _p95(values: list[float]) -> float:
    return sorted(values)[round(0.95 * (len(values) - 1))]
