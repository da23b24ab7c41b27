"""Runs work in a process of its own, as Airflow does, and measures it. Its other side is `measured.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.measured import MARK
from jobs.settings import ROOT

_SAMPLE_S = 0.2
_TIMEOUT_S = 900
_TAIL_BYTES = 2000


class FailedError(Exception):
    """What was to be measured failed; the text says how, with the end of what a process printed."""


class Measured(msgspec.Struct, frozen=True):
    """What work took: wall and processor seconds, and the peak memory of its processes together in MiB.

    Seconds are those between `begin` and `end`: starting the interpreter and warming up are not in them. Memory is what
    is resident, all that was loaded before included.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    answer: Any


def run(
    module: str, *arguments: str, python: Path | str = sys.executable, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run `python -m module arguments…`, whose work is inside `measured()`.

    Raises:
        FailedError: it ended with an error, took more than 15 minutes, or measured nothing.
    """
    command = [str(python), "-m", module, *arguments]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )  # fmt: skip
        tree = _Tree(process.pid)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timeout = threading.Timer(_TIMEOUT_S, expire)
        timeout.start()
        try:
            found = _follow(process, tree)
            code = process.wait()
        finally:
            timeout.cancel()
            tree.stop()
            tree.kill()
        if code or found is None:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
            end = errors.read().decode(errors="replace")
            why = f"did not end within {_TIMEOUT_S} s" if expired.is_set() else f"ended with {code}"
            raise FailedError(f"{' '.join(command[1:3])} {why}:\n{end}")
        return found


def _follow(process: subprocess.Popen[str], tree: _Tree) -> Measured | None:
    assert process.stdout is not None  # noqa: S101 (both are pipes)
    assert process.stdin is not None  # noqa: S101
    seconds = cpu_seconds = peak_mib = None
    answer = None
    for line in process.stdout:
        match line.split(maxsplit=2):
            case [mark, "begin"] if mark == MARK:
                tree.watch()
                before, started = tree.cpu_seconds(), time.perf_counter()
            case [mark, "end", own_peak] if mark == MARK:
                seconds = time.perf_counter() - started
                cpu_seconds = tree.cpu_seconds() - before
                peak_mib = max(tree.stop(), float(own_peak))
            case [mark, "answer", text] if mark == MARK:
                answer = json.loads(text)
                continue
            case _:
                continue  # what a library prints
        process.stdin.write("\n")
        process.stdin.flush()
    if seconds is None or cpu_seconds is None or peak_mib is None:
        return None
    return Measured(seconds, cpu_seconds, peak_mib, answer)


class _Tree:
    """A process and all that it has started."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._peak_mib = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def cpu_seconds(self) -> float:
        """Of all so far, those included that have ended."""
        spent = 0.0
        for process in self._processes():
            try:
                spent += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return spent

    def watch(self) -> None:
        """Begin to look at the memory."""
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """End it; the peak in MiB."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        return self._peak_mib

    def kill(self) -> None:
        """End what is left, such as the JVM of a Python process that was killed."""
        for process in self._processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            resident = 0
            for process in self._processes():
                try:
                    resident += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self._peak_mib = max(self._peak_mib, resident / 2**20)

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
