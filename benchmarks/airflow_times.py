"""Durations of Airflow's runs and tasks, from its REST API and the tasks' logs."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import msgspec
import requests

from infra.local.runner.paths import Paths
from jobs.airflow_api import sign_in
from jobs.settings import Settings

_PAGE = 100
_TIMEOUT_S = 30

T = TypeVar("T")


class RunTimes(msgspec.Struct, frozen=True):
    """Durations of a DAG's runs that were not skipped. Medians in seconds, and the 95th percentile of the duration.

    Attributes:
        overhead: time in which no task of the run was working.
        pause: time from the end of a run to the start of the next one.
        cycle: time from the start of a run to the start of the next one.
    """

    dag_id: str
    runs: int
    skipped: int
    failed: int
    duration: float
    duration_p95: float
    overhead: float
    pause: float
    cycle: float


class TaskTimes(msgspec.Struct, frozen=True):
    """Successful tries of a task. Median seconds of each phase.

    Attributes:
        wait: from the end of the upstream tasks (for a first task: from queueing the run) until its process starts.
        start_up: until the operator starts.
        parse: the part of start_up that parses the DAG's file.
        work: until the operator ends.
        finish: until Airflow has recorded the end.
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
    """When the operator of a try began and ended, and the seconds to parse the DAG's file, from the task's log."""

    began: datetime
    ended: datetime
    parse_s: float


class _Run(msgspec.Struct, frozen=True):
    """A DAG run in Airflow's API."""

    dag_run_id: str
    state: str
    queued_at: datetime
    start_date: datetime | None
    end_date: datetime | None


class _TaskInstance(msgspec.Struct, frozen=True):
    """The last try of a task in a run in Airflow's API."""

    dag_id: str
    dag_run_id: str
    task_id: str
    try_number: int
    state: str | None
    start_date: datetime | None
    end_date: datetime | None


class _Try(msgspec.Struct, frozen=True):
    """A successful try, with its times in order; `ready` is the end of the upstream tasks."""

    task_id: str
    ready: datetime
    started: datetime
    phases: Phases
    finished: datetime


class _Work(msgspec.Struct, frozen=True):
    """A run that was not skipped."""

    started: datetime
    ended: datetime
    is_failed: bool
    tries: list[_Try]

    @property
    def seconds(self) -> float:
        return _count_seconds(self.started, self.ended)

    @property
    def overhead(self) -> float:
        """Seconds in which no task was working."""
        return self.seconds - count_busy_seconds(tried.phases for tried in self.tries)


def read_times(settings: Settings, dag_ids: Sequence[str], since: datetime) -> tuple[list[RunTimes], list[TaskTimes]]:
    """Read the durations of the runs that began after a moment, and of their tasks."""
    logs = Paths(settings.datastream_state).logs
    runs, tasks = [], []
    for dag_id in dag_ids:
        with sign_in(settings) as (session, url):
            run_entries = _read_all(session, f"{url}/{dag_id}/dagRuns", "dag_runs", _Run)
            instances = _read_all(session, f"{url}/{dag_id}/dagRuns/~/taskInstances", "task_instances", _TaskInstance)
        ended = [run for run in run_entries if run.start_date and run.start_date >= since and run.end_date]
        by_run: dict[str, list[_TaskInstance]] = {run.dag_run_id: [] for run in ended}
        for instance in instances:
            if instance.dag_run_id in by_run:
                by_run[instance.dag_run_id].append(instance)
        works = [work for run in ended if (work := _make_work(run, by_run[run.dag_run_id], logs))]
        works.sort(key=lambda work: work.started)
        if works:
            runs.append(_summarise_runs(dag_id, works, len(ended) - len(works)))
        retried = Counter(task.task_id for instances in by_run.values() for task in instances if task.try_number > 1)
        tries: dict[str, list[_Try]] = defaultdict(list)
        for tried in chain.from_iterable(work.tries for work in works):
            tries[tried.task_id].append(tried)
        tasks += [
            _summarise_tries(dag_id, task_id, task_tries, retried[task_id]) for task_id, task_tries in tries.items()
        ]
    return runs, tasks


def _read_all(session: requests.Session, url: str, key: str, kind: type[T]) -> list[T]:
    """Read all entries of a collection, page by page."""
    entries: list[T] = []
    while True:
        answer = session.get(url, params={"limit": _PAGE, "offset": len(entries)}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        page = answer.json()
        entries += msgspec.convert(page[key], list[kind])  # type: ignore[valid-type]
        if not page[key] or len(entries) >= page["total_entries"]:
            return entries


def _make_work(run: _Run, tasks: list[_TaskInstance], logs: Path) -> _Work | None:
    """The run with its tries; None if all its tasks were skipped."""
    if run.start_date is None or run.end_date is None or all(task.state == "skipped" for task in tasks):
        return None
    tries = []
    for task in tasks:
        if task.state != "success" or task.start_date is None or task.end_date is None:
            continue
        folder = logs / "airflow" / f"dag_id={task.dag_id}" / f"run_id={task.dag_run_id}" / f"task_id={task.task_id}"
        if phases := read_phases(folder / f"attempt={task.try_number}.log"):
            before = [other.end_date for other in tasks if other.end_date and other.end_date <= task.start_date]
            ready = max([run.queued_at, *before])
            tries.append(_Try(task.task_id, ready, task.start_date, phases, task.end_date))
    tries.sort(key=lambda tried: tried.started)
    return _Work(run.start_date, run.end_date, run.state == "failed", tries)


def _summarise_runs(dag_id: str, works: list[_Work], skipped: int) -> RunTimes:
    durations = [work.seconds for work in works]
    return RunTimes(
        dag_id,
        len(works),
        skipped,
        sum(work.is_failed for work in works),
        statistics.median(durations),
        _find_p95(durations),
        statistics.median(work.overhead for work in works),
        _find_median([_count_seconds(work.ended, later.started) for work, later in pairwise(works)]),
        _find_median([_count_seconds(work.started, later.started) for work, later in pairwise(works)]),
    )


def _summarise_tries(dag_id: str, task_id: str, tries: list[_Try], retried: int) -> TaskTimes:
    work = [_count_seconds(tried.phases.began, tried.phases.ended) for tried in tries]
    return TaskTimes(
        dag_id,
        task_id,
        len(tries),
        retried,
        _find_median([_count_seconds(tried.ready, tried.started) for tried in tries]),
        _find_median([_count_seconds(tried.started, tried.phases.began) for tried in tries]),
        _find_median([tried.phases.parse_s for tried in tries]),
        _find_median(work),
        _find_p95(work),
        _find_median([_count_seconds(tried.phases.ended, tried.finished) for tried in tries]),
    )


def count_busy_seconds(phases: Iterable[Phases]) -> float:
    """The seconds in which at least one task was working."""
    busy, until = 0.0, datetime.min.replace(tzinfo=UTC)
    for phase in sorted(phases, key=lambda phase: phase.began):
        busy += max(0.0, _count_seconds(max(phase.began, until), phase.ended))
        until = max(until, phase.ended)
    return busy


def read_phases(log: Path) -> Phases | None:
    """Read the phases of a try from its log; None if it did not succeed."""
    began = ended = None
    parse_s = 0.0
    with log.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            match line["event"]:
                case "Worker startup parse complete":
                    parse_s = line["dag_file_parse_ms"] / 1000
                case "::endgroup::" if began is None:
                    began = datetime.fromisoformat(line["timestamp"])
                case "::group::Post Execute":
                    ended = datetime.fromisoformat(line["timestamp"])
    return Phases(began, ended, parse_s) if began and ended else None


def _count_seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


def _find_median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def _find_p95(values: list[float]) -> float:
    return sorted(values)[round(0.95 * (len(values) - 1))]
