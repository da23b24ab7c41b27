"""Rides as PutGCP writes them, for the playbook's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.kafka.staged import Chunk
from jobs.rides.distance import haversine
from jobs.rides.transform import SINK_SCHEMA
from jobs.sinks.parquet import export, name_object
from ride_generator import CITIES, make_rides, spread

START = datetime(2026, 1, 5, 22, tzinfo=UTC)
STAMP = datetime(2026, 1, 6, 2, tzinfo=UTC)


def ride_rows(count: int, *, city: str = "new-york", seed: int = 1, first_offset: int = 0) -> list[dict[str, Any]]:
    """Rows of SINK_SCHEMA over three hours, past midnight."""
    clock = spread(START, timedelta(hours=3), count, CITIES[city], seed)
    rides = list(islice(make_rides(CITIES[city], seed, clock, fixed_start=True), count))
    aliases = {"eco": "low", "comfort": "medium", "business": "high"}
    rows = []
    for number, ride in enumerate(rides):
        ends = [ride[end][axis] for end in ("origin", "destination") for axis in ("lat", "lon")]
        km = float(haversine(*[np.array([degrees]) for degrees in ends])[0])
        rows.append(
            {
                "ride_id": ride["ride_id"],
                "ts": datetime.fromisoformat(ride["ts"]),
                "agent_timestamp": STAMP,
                "comfort": aliases.get(ride["comfort"], ride["comfort"]),
                **dict(zip(("origin_lat", "origin_lon", "destination_lat", "destination_lon"), ends, strict=True)),
                **{name: ride[name] for name in ("duration_min", "price_base", "price_per_km", "price_per_min")},
                "distance_km": km,
                "price_total": ride["price_base"]
                + km * ride["price_per_km"]
                + ride["duration_min"] * ride["price_per_min"],
                "kafka_partition": number % 6,
                "kafka_offset": first_offset + number,
            }
        )
    return rows


def put(client: Any, bucket: str, prefix: str, rows: list[dict[str, Any]], topic: str = "rides_result") -> list[str]:
    """Write rows as PutGCP does; returns the names of the objects."""
    batch = pa.RecordBatch.from_pylist(rows, SINK_SCHEMA)
    offsets = [row["kafka_offset"] for row in rows]
    chunk = Chunk(0, min(offsets), max(offsets), len(rows), 0, "")
    return export(client, bucket, batch, lambda hour: name_object(prefix, topic, chunk, hour))
