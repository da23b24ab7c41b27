"""Read the lag of consumer groups, and wait until they have caught up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from jobs.errors import ServiceUnavailableError
from jobs.kafka.client import Config, open_consumer, translate_broker_errors
from jobs.kafka.offsets import (
    HeldBack,
    list_held_back,
    list_partitions,
    read_bounds,
    read_committed_offsets,
    read_current_offsets,
)
from jobs.progress import Progress

# Give up after this time without progress.
STALLED_S = 180
_POLL_S = 0.5


class Lag(msgspec.Struct, frozen=True):
    """The offsets between a group and the high watermarks. Open transactions still hold back `held_back` of them."""

    offsets: int
    held_back: list[HeldBack]


def read_lag(config: Config, topic: str, group: str, *, is_stream: bool = False) -> Lag:
    """Read the lag of a group on its topic.

    Args:
        is_stream: the group only shows the position of a program, and has no copy of its offsets.

    Raises:
        OffsetsError: another client committed with this group id.
    """
    name = group if is_stream else "lag"
    with translate_broker_errors(config, f"reading the lag of {group}"), open_consumer(config, name) as client:
        bounds = read_bounds(config, client, topic, list_partitions(client, topic))
        if is_stream:
            offsets = read_committed_offsets(client, topic, list(bounds))
        else:
            offsets = read_current_offsets(config, topic, group)
    # The group may have moved since the bounds were read: offsets that it has passed are no longer held back.
    left = {}
    for partition, bound in bounds.items():
        offset = offsets[partition].offset
        left[partition] = max(0, bound.high - (bound.low if offset is None else offset))
    behind = {partition: bound for partition, bound in bounds.items() if left[partition]}
    return Lag(sum(left.values()), list_held_back(topic, behind))


def wait_until_done(
    read_left: Callable[[], Mapping[str, int]],
    progress: Progress,
    *,
    timeout_s: float | None = None,
    on_move: Callable[[Mapping[str, int]], object] = lambda _: None,
    advise: Callable[[], str],
) -> None:
    """Wait until all groups have caught up.

    Args:
        read_left: reads the number of offsets left, by title ("rides priced").
        timeout_s: seconds to wait at most; None to wait as long as there is progress.
        on_move: called with the numbers of offsets left, at first and after each change.
        advise: returns the advice for a wait without progress.

    Raises:
        ServiceUnavailableError: no progress for STALLED_S seconds, or the timeout has passed.
    """
    start = moved = time.monotonic()
    most: dict[str, int] = {}
    last: Mapping[str, int] | None = None
    while True:
        left = read_left()
        for title, count in left.items():
            most[title] = max(most.get(title, 0), count)
            progress(title, most[title] - count, most[title])
        if not any(left.values()):
            return
        if left != last:
            last, moved = left, time.monotonic()
            on_move(left)
        now = time.monotonic()
        is_late = timeout_s is not None and now > start + timeout_s
        if is_late or now > moved + STALLED_S:
            what = ", ".join(f"{title} ({count:,} offsets)" for title, count in left.items() if count)
            why = "" if is_late else f" No progress for {STALLED_S} s."
            raise ServiceUnavailableError(f"Still waiting for: {what}.{why} {advise()}")
        time.sleep(_POLL_S)
