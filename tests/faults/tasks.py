"""The processes of Airflow's tasks, as /proc shows them: which task and try each is, and what it is doing.

LocalExecutor's worker holds the log file of the try that it supervises open; the task itself is that worker's child.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from infra.local.runner import supervisor
from infra.local.runner.environment import STACK_MARK
from infra.local.runner.paths import Paths
from jobs.settings import Settings

_WORKER = "airflow worker -- LocalExecutor: "
_IDLE = "<idle>"
_LOG = re.compile(r"/dag_id=([^/]+)/run_id=([^/]+)/task_id=([^/]+)/attempt=(\d+)\.log$")
_AT_WORK = "::endgroup::"  # of Pre Execute; the next group is Post Execute
# What the system says when a file grows beyond RLIMIT_FSIZE.
FILE_TOO_LARGE = os.strerror(errno.EFBIG)


class Try(NamedTuple):
    """A try of a task that a worker process supervises."""

    dag_id: str
    run_id: str
    task_id: str
    number: int
    log: Path
    worker: int  # process ids
    child: int

    @property
    def name(self) -> str:
        return f"{self.dag_id}.{self.task_id} try {self.number} of {self.run_id}"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.dag_id, self.run_id, self.task_id


class Glimpse(msgspec.Struct):
    """What a process looked like at one moment: the proof that a fault hit a task at work."""

    task: str
    pid: int
    title: str
    state: str  # as /proc has it: R, S, D, T (stopped)
    cpu_s: float
    kafka_threads: int
    staged: list[str]
    log_end: str
    is_at_work: bool  # whether its own code was running, by its log


class Tasks:
    """Finds the tasks that are running under the scheduler."""

    def __init__(self, settings: Settings) -> None:
        self._paths = Paths(settings.datastream_state)
        self._staging = Path(settings.staging.removeprefix("file://"))
        self._logs: dict[tuple[int, str], str] = {}

    def scheduler(self) -> int:
        """Its process id; 0 while it is down."""
        state = supervisor.read_states(self._paths).get("airflow-scheduler")
        return state.pid if state else 0

    def running(self, scheduler: int) -> list[Try]:
        """The tries under way; cheap enough to be asked a thousand times a second."""
        tries = []
        for worker in _children(scheduler):
            title = _title(worker)
            if not title.startswith(_WORKER) or title.endswith(_IDLE):
                continue
            log = self._log(worker, title)
            child = next(_children(worker), 0)
            if log and child:
                dag_id, run_id, task_id, number = _LOG.search(log).groups()  # type: ignore[union-attr]
                tries.append(Try(dag_id, run_id, task_id, int(number), Path(log), worker, child))
        return tries

    def _log(self, worker: int, title: str) -> str:
        """The log of the try that a worker supervises; empty while it has not opened one."""
        if (worker, title) not in self._logs:
            for link in _listed(f"/proc/{worker}/fd"):
                with suppress(OSError):
                    target = str(Path(f"/proc/{worker}/fd/{link}").readlink())
                    if _LOG.search(target):
                        self._logs[worker, title] = target
        return self._logs.get((worker, title), "")

    def folder(self, task: Try) -> Path:
        """Where a try stages its files."""
        return self._staging / task.dag_id / task.run_id / task.task_id / str(task.number)

    def staged(self, task: Try) -> list[str]:
        return sorted(_listed(str(self.folder(task))))

    def manifest(self, task: Try, task_id: str) -> dict[str, Any] | None:
        """The manifest that another task of the same run has staged: of its last try that wrote one."""
        for file in sorted(self._staging.glob(f"{task.dag_id}/{task.run_id}/{task_id}/*/manifest.json"), reverse=True):
            with suppress(OSError, ValueError):
                manifest: dict[str, Any] = json.loads(file.read_text())
                return manifest
        return None

    def glimpse(self, task: Try) -> Glimpse:
        """How a try's process looks now.

        Raises:
            psutil.NoSuchProcess: it has ended.
        """
        process = psutil.Process(task.child)
        with process.oneshot():
            return Glimpse(
                task=task.name,
                pid=task.child,
                title=" ".join(process.cmdline()),
                state=_state(task.child),
                cpu_s=round(sum(process.cpu_times()[:2]), 2),
                kafka_threads=kafka_threads(task.child),
                staged=self.staged(task),
                log_end=(events(task.log) or [""])[-1],
                is_at_work=is_at_work(task),
            )


def is_at_work(task: Try) -> bool:
    """Whether the task's own code is running: Airflow has logged that it prepared it, and not that it is done."""
    return _AT_WORK in events(task.log) and not is_done(task)


def is_done(task: Try) -> bool:
    """Whether the task's own code has run to its end."""
    return any(event.startswith("::group::Post Execute") for event in events(task.log))


def events(log: Path) -> list[str]:
    """The texts of a task's log."""
    return [str(entry.get("event", "")) for entry in entries(log)]


def lines(log: Path) -> list[str]:
    """A task's log as it is in the file, with errors and their causes."""
    with suppress(OSError):
        return log.read_text(errors="replace").splitlines()
    return []


def told(log: Path) -> list[str]:
    """What a task's log says at its end, with the errors that it names."""
    lines = []
    for entry in entries(log):
        errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in entry.get("error_detail") or []]
        lines.append(" ← ".join([str(entry.get("event", "")), *errors])[:600])
    return lines[-8:]


def entries(log: Path) -> list[dict[str, Any]]:
    records = []
    for line in lines(log):
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


def kafka_threads(pid: int) -> int:
    """How many threads Kafka's client has in a process; it names them rdk:…"""
    count = 0
    for thread in _listed(f"/proc/{pid}/task"):
        with suppress(OSError):
            count += Path(f"/proc/{pid}/task/{thread}/comm").read_text().startswith("rdk:")
    return count


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process has ended (a zombie in the system's sense has, too)."""
    if _state(pid) in ("", "Z", "X"):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z", "X")


def is_frozen(pid: int) -> bool:
    """Whether every thread of a process is stopped."""
    states = [_state(pid, thread) for thread in _listed(f"/proc/{pid}/task")]
    return bool(states) and set(states) == {"T"}


def is_asleep(pid: int) -> bool:
    """Whether a process waits for something, and has done so for a tenth of a second."""
    before = _cpu_ticks(pid)
    time.sleep(0.1)
    return _state(pid) == "S" and _cpu_ticks(pid) == before


def limit_files(pid: int, most_bytes: int) -> None:
    """Let every write beyond this size of a file fail, as on a full disk. −1: no limit."""
    psutil.Process(pid).rlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def orphans(settings: Settings, scheduler: int) -> list[int]:
    """LocalExecutor's workers whose scheduler was killed."""
    mine = set(_children(scheduler))
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_worker = process.pid not in mine and _title(process.pid).startswith(_WORKER)
            if is_worker and process.environ().get(STACK_MARK) == str(settings.datastream_state):
                processes.append(process.pid)
    return processes


def _children(pid: int) -> Iterator[int]:
    for thread in _listed(f"/proc/{pid}/task"):
        with suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _state(pid: int, thread: str = "") -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread or pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _cpu_ticks(pid: int) -> list[str]:
    """Processor time in user and in system mode."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return []


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (a thousand times a second)
    except OSError:
        return []
