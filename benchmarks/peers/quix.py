"""Quix Streams, exactly once: `python -m benchmarks.peers.quix ROUTE`, in .venv-bench.

One process writes results and offsets in one transaction per COMMIT_EVERY messages (by default, per 5 s). orjson, a
dependency of Quix Streams, decodes and encodes the messages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
from quixstreams import Application

from benchmarks.measured import measured
from benchmarks.peers.pricing import price
from benchmarks.route import Route

COMMIT_EVERY = 20_000


def work(value: bytes | None) -> bytes | None:
    """A priced ride, or the unchanged message."""
    try:
        done: bytes = orjson.dumps(price(orjson.loads(value)))
    except (TypeError, KeyError, ValueError):
        return value
    return done


def main(route: Route) -> None:
    app = Application(
        broker_address=route.bootstrap_servers,
        consumer_group=route.target,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=COMMIT_EVERY,
        state_dir=Path(route.folder),
        auto_create_topics=False,
        consumer_extra_config={"queued.min.messages": 100_000, "fetch.message.max.bytes": 8 * 2**20},
        producer_extra_config={
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        },
        loglevel="WARNING",
    )
    source = app.topic(route.source, value_deserializer="bytes", key_deserializer="bytes")
    target = app.topic(route.target, value_serializer="bytes", key_serializer="bytes")
    app.dataframe(source).apply(work).to_topic(target)
    with measured():
        app.run(count=route.count, timeout=30, collect=False)


if __name__ == "__main__":
    main(Route.from_json(sys.argv[1]))
