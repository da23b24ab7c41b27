"""The process whose work is measured; the one that measures is `measure.py`. Peers run this too: no dependencies."""

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
    """What is done inside is measured; loading, starting and warming up belong before it."""
    _tell("begin")
    sys.stdin.readline()
    yield
    _tell("end", str(_peak_mib()))
    sys.stdin.readline()


def answer(value: Any) -> None:
    """Hand a value to the process that measures."""
    _tell("answer", json.dumps(value))


def _peak_mib() -> float:
    """The most memory that this process had resident."""
    if sys.platform == "linux":
        # ru_maxrss would begin with the peak of the process that started this one.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _tell(*words: str) -> None:
    print(MARK, *words, flush=True)
