"""Rides and results, and batches of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import pyarrow as pa

from jobs.kafka.staged import MESSAGE_SCHEMA
from tests.testkit.kafka import Raw


def ride(**changes: Any) -> dict[str, Any]:
    """A valid ride of rides_raw with a new id."""
    return {
        "ride_id": str(uuid4()),
        "ts": "2026-01-05T08:15:30.123456Z",
        "origin": {"lat": 40.7549, "lon": -73.984},
        "destination": {"lat": 40.6413, "lon": -73.7781},
        "comfort": "medium",
        "duration_min": 31.5,
        "price_base": 2.55,
        "price_per_km": 1.75,
        "price_per_min": 0.35,
    } | changes


def encode(content: Any) -> bytes:
    return json.dumps(content).encode()


def keyed(content: Mapping[str, Any]) -> Raw:
    """A ride as its producer sends it."""
    return Raw(encode(content), content["ride_id"].encode())


def result(**changes: Any) -> dict[str, Any]:
    """A message of rides_result."""
    return ride(distance_km=21.5, price_total=51.2) | changes


def messages(values: Sequence[bytes | None], first: int = 0, sent_at: int = 0) -> pa.RecordBatch:
    """Values as a batch of MESSAGE_SCHEMA with consecutive offsets and one timestamp in ms since 1970."""
    count = len(values)
    return pa.record_batch(
        [
            pa.array(range(first, first + count), pa.int64()),
            pa.array([sent_at] * count, pa.int64()),
            pa.array([b"key"] * count, pa.binary()),
            pa.array(values, pa.binary()),
            pa.nulls(count, MESSAGE_SCHEMA.field("headers").type),
        ],
        schema=MESSAGE_SCHEMA,
    )
