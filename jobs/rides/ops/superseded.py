"""Superseded results: those of rides that were priced again.

Each copy on rides_raw carries two headers: the position of the message that it replaces, and the offsets before which
results of its ride are superseded. The ledger, the purge and later reprocessings need nothing but these headers.
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

# The position of the raw message that the copy replaces: "<partition>:<offset>".
REPROCESSED = "datastream.reprocessed"
# The results of the copy's ride before these offsets of rides_result are superseded: "<partition>:<offset>,…".
SUPERSEDES = "datastream.supersedes"

Position = tuple[int, int]


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The fields that identify a ride and its start. Other fields of the message are not checked."""

    ride_id: str
    ts: str


class Mark(msgspec.Struct, frozen=True):
    """The marks of a copy. `supersedes` is the text of the header, the same in all copies of one reprocessing."""

    source: Position
    supersedes: str


class Superseded:
    """The results that reprocessings have superseded, collected from the copies on rides_raw."""

    def __init__(self) -> None:
        self._rides: dict[str, set[bytes]] = {}

    def add(self, mark: Mark, ride: bytes) -> None:
        self._rides.setdefault(mark.supersedes, set()).add(ride)

    def update(self, other: Superseded) -> None:
        for text, rides in other.items():
            self._rides.setdefault(text, set()).update(rides)

    def items(self) -> ItemsView[str, set[bytes]]:
        """Return the rides by the `supersedes` of their marks."""
        return self._rides.items()

    def covers(
        self, rides: pa.Array | pa.ChunkedArray, partitions: NDArray[np.integer], offsets: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Return which results are superseded.

        Args:
            rides: the ride_id of each result, as 16 bytes (binary).
            partitions, offsets: the position of each result on rides_result.
        """
        is_superseded = np.zeros(len(offsets), dtype=bool)
        ride_of_row = rides.to_pylist() if self._rides else []
        for text, replaced in self._rides.items():
            rows = np.flatnonzero(is_before(parse_positions(text), partitions, offsets) & ~is_superseded)
            is_superseded[rows] = [ride_of_row[row] in replaced for row in rows.tolist()]
        return is_superseded


def read_identity(message: Message) -> tuple[bytes, str] | None:
    """Return the ride_id of a raw message as 16 bytes, and its ts as written; None if it has no readable ones."""
    value = message.value() or b""
    try:
        identity = _decode(value)
        return encode_ride_id(identity.ride_id), identity.ts
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        pass
    try:  # unlike msgspec, the contract's parser accepts lone surrogates in unknown fields
        fields = json.loads(value)
        return encode_ride_id(fields["ride_id"]), str(fields["ts"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


_decode = msgspec.json.Decoder(Identity).decode


def encode_ride_id(ride_id: str) -> bytes:
    """Convert a ride_id, in any case, to 16 bytes."""
    return UUID(ride_id).bytes


def read_mark(headers: Headers | None) -> Mark | None:
    """Read the mark of a copy; return None if the message has no valid one."""
    texts = {key: (value or b"").decode("utf-8", "replace") for key, value in headers or []}
    try:
        (source,) = parse_positions(texts[REPROCESSED]).items()
        parse_positions(texts[SUPERSEDES])
    except (KeyError, ValueError):
        return None
    return Mark(source, texts[SUPERSEDES])


def add_mark(headers: Headers | None, mark: Mark) -> Headers:
    """Return a message's headers with a mark, which replaces the mark of an earlier copy."""
    kept = [(key, value) for key, value in headers or [] if key not in (REPROCESSED, SUPERSEDES)]
    source = format_positions(dict([mark.source]))
    return [*kept, (REPROCESSED, source.encode()), (SUPERSEDES, mark.supersedes.encode())]


def is_reprocessing(config: Config, topic: str) -> bool:
    """Return whether a reprocessing of the raw topic is unfinished."""
    with (
        translate_broker_errors(config, f"reading the offsets of {GROUP}"),
        open_group_reader(config, topic, GROUP) as reader,
    ):
        return any(offset.decode_plan(dict) is not None for offset in reader.observe().values())


def is_before(
    ends: Mapping[int, int], partitions: NDArray[np.integer], offsets: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Return which positions are before the end of their partition."""
    result = np.zeros(len(offsets), dtype=bool)
    for partition, end in ends.items():
        result |= (partitions == partition) & (offsets < end)
    return result


def format_positions(offsets: Mapping[int, int]) -> str:
    """Format offsets by partition: `0:12,5:1`."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(offsets.items()))


def parse_positions(text: str) -> dict[int, int]:
    """Parse what `format_positions` wrote: offsets by partition.

    Raises:
        ValueError: the text has another form.
    """
    offsets = {}
    for position in text.split(","):
        partition, offset = position.split(":")
        offsets[int(partition)] = int(offset)
    return offsets
