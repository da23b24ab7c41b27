"""The messages for `rides_raw`: rides mixed with faults and duplicates, or the lines of a file."""

from __future__ import annotations

import json
import os
import random
import select
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ride_faults import draw_faults, encode
from ride_generator import Ride

REMEMBERED = 1000  # messages from which duplicates are drawn
READ_BYTES = 1 << 20


class Message(NamedTuple):
    """A message to send. `fault` is the label of an invalid one."""

    key: bytes | None
    value: bytes | None
    fault: str | None = None
    duplicate: bool = False


def mix(rides: Iterator[Ride], seed: int, faulty: float, duplicates: float) -> Iterator[Message]:
    """Endless messages, of which a share `faulty` is invalid and a share `duplicates` repeats earlier ones.

    The choice uses separate random numbers, so the shares do not change the rides. A duplicate repeats key and value of
    a recent valid message.
    """
    rng = random.Random(f"{seed}:mix")
    faults = draw_faults(rng)
    remembered: list[Message] = []
    while True:
        chance = rng.random() if faulty or duplicates else 1.0
        if chance < duplicates and remembered:
            yield rng.choice(remembered)._replace(duplicate=True)
            continue
        ride = next(rides)
        key = ride["ride_id"].encode()
        if duplicates <= chance < duplicates + faulty:
            label, fault = next(faults)
            yield Message(key, fault(ride), fault=label)
            continue
        message = Message(key, encode(ride))
        if duplicates:
            if len(remembered) < REMEMBERED:
                remembered.append(message)
            else:
                remembered[rng.randrange(REMEMBERED)] = message
        yield message


def read_messages(descriptor: int, stopped: Callable[[], bool]) -> Iterator[Message]:
    """Each line of an open file or pipe as a message: the unchanged bytes before the line feed.

    Polls the descriptor, so that a stop request takes effect while a pipe is silent.
    """
    parts: list[bytes] = []
    while not stopped():
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        chunk = os.read(descriptor, READ_BYTES)
        if not chunk:
            break
        head, *lines = chunk.split(b"\n")
        parts.append(head)
        for line in lines:
            yield _make_message(b"".join(parts))
            parts = [line]
    rest = b"".join(parts)
    if rest and not stopped():
        yield _make_message(rest)


def _make_message(line: bytes) -> Message:
    return Message(_read_key(line), line)


def _read_key(line: bytes) -> bytes | None:
    """The ride_id in a line; None if it has no readable one."""
    try:
        ride_id = json.loads(line)["ride_id"]
        return ride_id.encode() if isinstance(ride_id, str) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
