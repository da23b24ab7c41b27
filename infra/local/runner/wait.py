"""Waiting for a condition, with a deadline."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed


def until(condition: Callable[[], bool], within_s: float, every_s: float = 0.1) -> bool:
    """Check every `every_s` seconds; returns whether the condition held within `within_s` seconds."""
    unmet = retry_if_result(lambda held: not held)
    try:
        Retrying(retry=unmet, stop=stop_after_delay(within_s), wait=wait_fixed(every_s))(condition)
    except RetryError:
        return False
    return True
