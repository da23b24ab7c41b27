"""Runs and measures work in a separate process, as Airflow does. The measured process uses `measured.py`."""

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
    """The measured process failed. The text has the cause and its last output."""


class Measured(msgspec.Struct, frozen=True):
    """The cost of some work: wall and CPU seconds, and the peak memory of all its processes in MiB.

    Seconds are those between `begin` and `end`, without starting the interpreter and warming up. Memory is resident
    memory, including what was loaded before.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    answer: Any


def run(
    module: str, *arguments: str, python: Path | str = sys.executable, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run and measure `python -m module arguments…`. Its work must be inside `measured()`.

    Raises:
        FailedError: the process failed, took more than 15 minutes, or measured nothing.
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
            measured = _follow(process, tree)
            code = process.wait()
        finally:
            timeout.cancel()
            tree.stop()
            tree.kill()
        if code or measured is None:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
            end = errors.read().decode(errors="replace")
            why = f"did not end within {_TIMEOUT_S} s" if expired.is_set() else f"ended with exit code {code}"
            raise FailedError(f"{' '.join(command[1:3])} {why}:\n{end}")
        return measured


def _follow(process: subprocess.Popen[str], tree: _Tree) -> Measured | None:
    assert process.stdout is not None  # noqa: S101 (both are pipes)
    assert process.stdin is not None  # noqa: S101
    seconds = cpu_seconds = peak_mib = None
    answer = None
    for line in process.stdout:
        match line.split(maxsplit=2):
            case [mark, "begin"] if mark == MARK:
                tree.watch()
                before, started = tree.read_cpu_seconds(), time.perf_counter()
            case [mark, "end", own_peak] if mark == MARK:
                seconds = time.perf_counter() - started
                cpu_seconds = tree.read_cpu_seconds() - before
                peak_mib = max(tree.stop(), float(own_peak))
            case [mark, "answer", text] if mark == MARK:
                answer = json.loads(text)
                continue
            case _:
                continue  # output of a library
        process.stdin.write("\n")
        process.stdin.flush()
    if seconds is None or cpu_seconds is None or peak_mib is None:
        return None
    return Measured(seconds, cpu_seconds, peak_mib, answer)


class _Tree:
    """A process and its children."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._peak_mib = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def read_cpu_seconds(self) -> float:
        """CPU seconds of all processes so far, including children that have ended."""
        spent = 0.0
        for process in self._processes():
            try:
                spent += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return spent

    def watch(self) -> None:
        """Start to sample the memory."""
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop sampling; returns the peak in MiB."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        return self._peak_mib

    def kill(self) -> None:
        """Kill the remaining processes, for example the JVM of a killed Python process."""
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
