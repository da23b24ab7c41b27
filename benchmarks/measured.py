"""The process whose work is measured; the one that measures is `measure.py`. Peers run this too: no dependencies."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MARK = "benchmark:"


@contextmanager
def measured() -> Iterator[None]:
    """What is done inside is measured; loading, starting and warming up belong before it."""
    _tell("begin")
    sys.stdin.readline()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    _tell("end", str(peak / (2**20 if sys.platform == "darwin" else 2**10)))
    sys.stdin.readline()


def answer(value: Any) -> None:
    """Hand a value to the process that measures."""
    _tell("answer", json.dumps(value))


def _tell(*words: str) -> None:
    print(MARK, *words, flush=True)
