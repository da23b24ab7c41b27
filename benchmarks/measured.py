"""Marks the measured work of a process for `measure.py`. Peers import this module, so it has no dependencies."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "benchmark:"


@contextmanager
def measured() -> Iterator[None]:
    """Measure the work inside. Imports, start-up and warm-up belong before it."""
    _write("begin")
    sys.stdin.readline()
    yield
    _write("end", str(_read_peak_mib()))
    sys.stdin.readline()


def answer(value: Any) -> None:
    """Pass a value to the measuring process."""
    _write("answer", json.dumps(value))


def _read_peak_mib() -> float:
    """The peak resident memory of this process."""
    if sys.platform == "linux":
        # Not ru_maxrss, which starts with the peak of the parent process.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _write(*words: str) -> None:
    print(MARK, *words, flush=True)
