"""Airflow's stock Kafka operators: `python -m benchmarks.peers.stock TASK DISTANCE OPTIONS ROUTE`.

ConsumeFromTopicOperator prices each batch and writes it to a file, because XCom is not for data. ProduceToTopicOperator
sends the file. OPTIONS are `defaults` or `tuned`: batches of 10,000, asynchronous sends with lz4 and linger, and a
delivery callback that logs failures only (the default one logs every message). At least once: one task commits the
offsets, the other sends the messages.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from airflow.providers.apache.kafka.operators.consume import ConsumeFromTopicOperator
from airflow.providers.apache.kafka.operators.produce import ProduceToTopicOperator
from confluent_kafka import KafkaError, Message
from geopy.distance import geodesic

from benchmarks.measured import measured
from benchmarks.peers.pricing import Point, haversine, price
from benchmarks.route import Route

TUNED_OPERATORS: dict[str, dict[str, Any]] = {
    "consume": {"max_batch_size": 10_000},
    "produce": {"delivery_callback": f"{__spec__.name}.log_failure", "synchronous": False},
}
TUNED_CLIENTS: dict[str, dict[str, Any]] = {
    "consume": {"queued.min.messages": 100_000, "fetch.message.max.bytes": 8 * 2**20},
    "produce": {
        "linger.ms": 5,
        "batch.size": 1_000_000,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 2**20,
    },
}


def measure_geodesic(origin: Point, destination: Point) -> float:
    kilometres: float = geodesic((origin["lat"], origin["lon"]), (destination["lat"], destination["lon"])).kilometers
    return kilometres


DISTANCES = {"haversine": haversine, "geopy": measure_geodesic}


def price_batch(messages: list[Message], distance: Callable[[Point, Point], float], file: str) -> None:
    """Append a line for each message: its key, and the priced ride or the unchanged message."""
    with Path(file).open("a", encoding="utf-8") as lines:
        for message in messages:
            key, value = message.key(), message.value()
            try:
                line = [key.decode(), json.dumps(price(json.loads(value), distance)), None]
            except (AttributeError, TypeError, KeyError, ValueError):
                line = [_encode(key), None, _encode(value)]
            lines.write(json.dumps(line) + "\n")


def _encode(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def read_back(file: str) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Read the keys and values in the file."""
    with Path(file).open(encoding="utf-8") as lines:
        for key, ride, raw in map(json.loads, lines):
            if ride is not None:
                yield key.encode(), ride.encode()
            else:
                yield key and b64decode(key), raw and b64decode(raw)


def log_failure(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        logging.getLogger(__name__).error("not delivered: %s", error)


def main(task: str, distance: str, options: str, route: Route) -> None:
    kafka: dict[str, Any] = {"bootstrap.servers": route.bootstrap_servers}
    if task == "consume":
        kafka |= {"group.id": route.target, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    if options == "tuned":
        kafka |= TUNED_CLIENTS[task]
    os.environ["AIRFLOW_CONN_KAFKA_DEFAULT"] = json.dumps({"conn_type": "kafka", "extra": kafka})
    folder = Path(route.folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = str(folder / "priced.jsonl")
    tuned = TUNED_OPERATORS[task] if options == "tuned" else {}
    operator: ConsumeFromTopicOperator | ProduceToTopicOperator
    if task == "consume":
        operator = ConsumeFromTopicOperator(
            task_id="consume",
            topics=[route.source],
            apply_function_batch=price_batch,
            apply_function_kwargs={"distance": DISTANCES[distance], "file": file},
            max_messages=route.count,
            **tuned,
        )
    else:
        operator = ProduceToTopicOperator(
            task_id="produce",
            topic=route.target,
            producer_function=partial(read_back, file),
            **tuned,
        )
    with measured():
        operator.execute({})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Route.from_json(sys.argv[4]))
