"""Wait for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 30


def until(
    condition: Callable[[], bool],
    what: str,
    within_s: float = DEADLINE_S,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: it is still false after `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {within_s:.0f} s"
        sleep(0.02)
