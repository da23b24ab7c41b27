"""What a reprocessing leaves to be ignored: results of rides that were priced anew.

A copy on rides_raw bears two marks: which raw message it replaces, and up to where the results of its ride are
superseded. So the topic itself tells the ledger, the purge and a later reprocessing all that they have to know.
"""

from __future__ import annotations

import json
from collections.abc import ItemsView, Mapping
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import Message
from numpy.typing import NDArray

from jobs.kafka.client import Config, translate_broker_errors
from jobs.kafka.dead_letter import Headers
from jobs.kafka.offsets import open_group_reader
from jobs.rides.vertical import REPROCESS_GROUP as GROUP

# The position of the raw message that a copy replaces: "<partition>:<offset>".
REPROCESSED = "datastream.reprocessed"
# The results of the copy's ride before these offsets of rides_result are superseded: "<partition>:<offset>,…".
SUPERSEDES = "datastream.supersedes"

Position = tuple[int, int]


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What tells rides apart, and when a ride began; the rest of the message may be as it likes."""

    ride_id: str
    ts: str


class Mark(msgspec.Struct, frozen=True):
    """What a copy says of itself; `supersedes` is the header's own text, the same in all copies of one reprocessing."""

    source: Position
    supersedes: str


class Superseded:
    """The results that reprocessings have superseded, gathered from the copies on rides_raw."""

    def __init__(self) -> None:
        self._rides: dict[str, set[bytes]] = {}

    def add(self, mark: Mark, ride: bytes) -> None:
        self._rides.setdefault(mark.supersedes, set()).add(ride)

    def update(self, other: Superseded) -> None:
        for text, rides in other.items():
            self._rides.setdefault(text, set()).update(rides)

    def items(self) -> ItemsView[str, set[bytes]]:
        """Rides by the `supersedes` of their marks."""
        return self._rides.items()

    def covers(
        self, rides: pa.Array | pa.ChunkedArray, partitions: NDArray[np.integer], offsets: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Which results are superseded.

        Args:
            rides: the ride of each result, as 16 bytes (binary).
            partitions, offsets: where each result is on rides_result.
        """
        found = np.zeros(len(offsets), dtype=bool)
        of_results = rides.to_pylist() if self._rides else []
        for text, replaced in self._rides.items():
            rows = np.flatnonzero(is_before(parse_positions(text), partitions, offsets) & ~found)
            found[rows] = [of_results[row] in replaced for row in rows.tolist()]
        return found


def identity(message: Message) -> tuple[bytes, str] | None:
    """The ride of a raw message as 16 bytes, and its ts as it was written; None where there is no reading them."""
    value = message.value() or b""
    try:
        found = _decode(value)
        return ride_bytes(found.ride_id), found.ts
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        pass
    try:  # what the contract's own parser takes and the fast one does not: lone surrogates in fields that nobody reads
        fields = json.loads(value)
        return ride_bytes(fields["ride_id"]), str(fields["ts"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


_decode = msgspec.json.Decoder(Identity).decode


def ride_bytes(ride_id: str) -> bytes:
    """A ride_id as 16 bytes, whatever the case that it is written in."""
    return UUID(ride_id).bytes


def mark_of(headers: Headers | None) -> Mark | None:
    """The mark of a copy; None where a message bears none, or one that is not of our making."""
    texts = {key: (value or b"").decode("utf-8", "replace") for key, value in headers or []}
    try:
        (source,) = parse_positions(texts[REPROCESSED]).items()
        parse_positions(texts[SUPERSEDES])
    except (KeyError, ValueError):
        return None
    return Mark(source, texts[SUPERSEDES])


def mark_headers(headers: Headers | None, mark: Mark) -> Headers:
    """The headers of a copy: the message's own, without the marks of an earlier copy, and its marks."""
    kept = [(key, value) for key, value in headers or [] if key not in (REPROCESSED, SUPERSEDES)]
    source = positions_text(dict([mark.source]))
    return [*kept, (REPROCESSED, source.encode()), (SUPERSEDES, mark.supersedes.encode())]


def is_reprocessing(config: Config, topic: str) -> bool:
    """Whether a reprocessing has begun on the raw topic and is not done."""
    with (
        translate_broker_errors(config, f"reading the offsets of {GROUP}"),
        open_group_reader(config, topic, GROUP) as reader,
    ):
        return any(found.decode_plan(dict) is not None for found in reader.observe().values())


def is_before(
    ends: Mapping[int, int], partitions: NDArray[np.integer], offsets: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Which positions lie before the end of their partition."""
    found = np.zeros(len(offsets), dtype=bool)
    for partition, end in ends.items():
        found |= (partitions == partition) & (offsets < end)
    return found


def positions_text(offsets: Mapping[int, int]) -> str:
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(offsets.items()))


def parse_positions(text: str) -> dict[int, int]:
    """Offsets by partition.

    Raises:
        ValueError: the text is none of `positions_text`.
    """
    found = {}
    for position in text.split(","):
        partition, offset = position.split(":")
        found[int(partition)] = int(offset)
    return found
