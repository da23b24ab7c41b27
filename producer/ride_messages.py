"""The stream of messages for `rides_raw`: rides with faults and duplicates among them, or the lines of a file."""

from __future__ import annotations

import json
import os
import random
import select
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ride_faults import encode, every_fault
from ride_generator import Ride

REMEMBERED = 1000  # rides from which duplicates are drawn
READ_BYTES = 1 << 20


class Message(NamedTuple):
    """What is sent. `fault` is the label of a message that breaks the contract on purpose."""

    key: bytes | None
    value: bytes | None
    fault: str | None = None
    duplicate: bool = False


def mixed(rides: Iterator[Ride], seed: int, faulty: float, duplicates: float) -> Iterator[Message]:
    """A message per ride, a share `faulty` of them broken; in between, a share `duplicates` of repeated messages.

    The choice has its own random numbers, so the rides are the same whatever the shares. A duplicate repeats one of
    the latest good messages byte for byte, its key too.
    """
    rng = random.Random(f"{seed}:mix")
    faults = every_fault(rng)
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


def replayed(descriptor: int, stopped: Callable[[], bool]) -> Iterator[Message]:
    """Each line of an open file or pipe as a message: the bytes before the line feed, untouched.

    Reads the descriptor itself, so that a pipe that stays silent does not keep a stop request waiting.
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
            yield _line(b"".join(parts))
            parts = [line]
    rest = b"".join(parts)
    if rest and not stopped():
        yield _line(rest)


def _line(line: bytes) -> Message:
    return Message(_key_of(line), line)


def _key_of(line: bytes) -> bytes | None:
    """The line's ride_id, or None where there is none to be read."""
    try:
        ride_id = json.loads(line)["ride_id"]
        return ride_id.encode() if isinstance(ride_id, str) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
