"""JSON layouts of a ride that senders may use. All are equivalent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_write_compact = json.JSONEncoder(separators=(",", ":")).encode


def _write_foreign(ride: dict[str, Any]) -> str:
    """Another field order, an unknown field with members, and an escape: json.dumps writes ë as \\u00eb."""
    return json.dumps(dict(reversed(ride.items())) | {"driver": {"id": 7, "name": "Zoë"}})


COMPACT = "compact"
# Layouts with their encoders. The first one is the producer's.
LAYOUTS: dict[str, Callable[[dict[str, Any]], str]] = {
    COMPACT: _write_compact,
    "spaced": json.dumps,
    "foreign": _write_foreign,
}


def rewrite_message(value: bytes | None, layout: str) -> bytes | None:
    """A message of the producer in another layout; unchanged if a new layout could remove a fault."""
    try:
        ride = json.loads(value or b"")
    except (ValueError, RecursionError):
        return value
    if not isinstance(ride, dict) or _write_compact(ride).encode() != value:
        return value
    return LAYOUTS[layout](ride).encode()
