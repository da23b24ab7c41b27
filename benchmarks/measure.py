"""Work measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec


class Pass(msgspec.Struct):
    """One measured pass over all messages: seconds of work (the interpreter's start not included), MiB of memory."""

    messages: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    peak_mib: float = 0
    by_task: dict[str, float] = msgspec.field(default_factory=dict)


def _measured(queue: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    answer = work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    peak_mib = peak / (2**20 if sys.platform == "darwin" else 2**10)
    queue.put((answer, time.perf_counter() - started, time.process_time() - cpu, peak_mib))


def in_process(found: Pass, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run one task in a process of its own, as Airflow does, and add what it took to `found`."""
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.SimpleQueue()
    process = spawn.Process(target=_measured, args=(queue, work, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} ended with {process.exitcode}")
    answer, seconds, cpu_seconds, peak_mib = queue.get()
    found.seconds += seconds
    found.cpu_seconds += cpu_seconds
    found.peak_mib = max(found.peak_mib, peak_mib)
    found.by_task[name] = found.by_task.get(name, 0) + seconds
    return answer
