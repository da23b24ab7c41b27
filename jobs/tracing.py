"""Trace one message: the places that hold it, and the log lines of the runs that processed it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import requests
from confluent_kafka import Message

from jobs import airflow_api
from jobs.kafka.claim import is_claimed
from jobs.kafka.dead_letter import read_error, read_headers
from jobs.settings import Settings
from jobs.vertical import Vertical

# The task whose log names the claim of a run.
_CLAIMING_TASK = "ConsumeKafka"
# A run may have started this long before a message that it claims was written: it waits for messages.
_STARTED_BEFORE = timedelta(minutes=15)
_PAGE = 100
_TIMEOUT_S = 30
# The loggers of our operators; Airflow's own lines are the same in each run.
_LOGGERS = ("airflow.task.operators", "airflow.task.hooks", "jobs.", "airflow.task.errors")


class Sighting(msgspec.Struct, frozen=True):
    """A place that holds a message, and what it holds.

    Attributes:
        position: where in that place: partition and offset, `_id` and version, an object's URI.
        error: why a message is a dead letter.
        content: a message's value, or the fields of a document or row.
        written_at: when a message was written, in seconds since 1970.
    """

    place: str
    position: dict[str, int | str]
    content: bytes | dict[str, Any] | None
    error: str | None = None
    written_at: float | None = None


class LogLine(msgspec.Struct, frozen=True):
    """A line in the log of a task."""

    timestamp: str
    level: str
    dag_id: str
    run_id: str
    task_id: str
    text: str


def make_sighting(message: Message) -> Sighting:
    """The sighting of a message on a topic."""
    headers = read_headers(message)
    reason, text = (read_error(headers, f"exception.{part}") for part in ("class.name", "message"))
    position: dict[str, int | str] = {"partition": message.partition(), "offset": message.offset()}
    error = f"{reason}: {text}" if reason else None
    return Sighting(message.topic(), position, message.value(), error, message.timestamp()[1] / 1000)


def find_log_lines(settings: Settings, vertical: Vertical, sightings: Iterable[Sighting]) -> list[LogLine]:
    """The log lines of the runs that claimed these messages, in the order of time.

    Raises:
        ServiceUnavailableError, ConfigurationError: Airflow does not answer, or rejects the login.
    """
    runs: dict[tuple[str, str], None] = {}
    with airflow_api.sign_in(settings) as (session, url):
        for sighting in sightings:
            for group in vertical.groups:
                if group.id in vertical.dags and getattr(settings, group.topic) == sighting.place:
                    run = _find_run(session, f"{url}/{group.id}", sighting)
                    runs |= {(group.id, run): None} if run else {}
        lines = [line for dag, run in runs for line in _read_run(session, f"{url}/{dag}/dagRuns/{run}")]
    return sorted(lines, key=lambda line: line.timestamp)


def _find_run(session: requests.Session, url: str, sighting: Sighting) -> str | None:
    """The id of the first run of a DAG that claimed a message; None if there is none, or its log was deleted."""
    since = datetime.fromtimestamp(sighting.written_at or 0, UTC) - _STARTED_BEFORE
    partition, offset = int(sighting.position["partition"]), int(sighting.position["offset"])
    for task in _list_claiming_tasks(session, url, since):
        run_url = f"{url}/dagRuns/{task['dag_run_id']}"
        events = (str(entry.get("event", "")) for entry in _read_log(session, run_url, task))
        if any(is_claimed(event, sighting.place, partition, offset) for event in events):
            return str(task["dag_run_id"])
    return None


def _list_claiming_tasks(session: requests.Session, url: str, since: datetime) -> Iterator[dict[str, Any]]:
    """The tasks that claimed messages, in the order of their start."""
    for page in count():
        asked: dict[str, str | int] = {
            "task_id": _CLAIMING_TASK, "state": "success", "start_date_gte": since.isoformat(),
            "order_by": "start_date", "limit": _PAGE, "offset": page * _PAGE,
        }  # fmt: skip
        tasks = _get(session, f"{url}/dagRuns/~/taskInstances", asked)["task_instances"]
        yield from tasks
        if len(tasks) < _PAGE:
            return


def _read_run(session: requests.Session, url: str) -> Iterator[LogLine]:
    for task in _get(session, f"{url}/taskInstances")["task_instances"]:
        for number in range(1, task["try_number"] + 1):
            for entry in _read_log(session, url, task | {"try_number": number}):
                if str(entry.get("logger", "")).startswith(_LOGGERS):
                    yield LogLine(
                        str(entry["timestamp"]), str(entry.get("level", "")), task["dag_id"], task["dag_run_id"],
                        task["task_id"], str(entry["event"]),
                    )  # fmt: skip


def _read_log(session: requests.Session, run_url: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a try's log; none if it was deleted."""
    if not task["try_number"]:  # it has not started
        return []
    content = _get(session, f"{run_url}/taskInstances/{task['task_id']}/logs/{task['try_number']}")["content"]
    return [entry for entry in content if isinstance(entry, dict)]


def _get(session: requests.Session, url: str, parameters: dict[str, str | int] | None = None) -> Any:
    headers = {"Accept": "application/json"}
    answer = session.get(url, params=parameters, headers=headers, timeout=_TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()
