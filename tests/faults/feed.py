"""A continuous producer whose every message is known: what it holds, where Kafka put it, and what must become of it."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from ride_generator import NEW_YORK, make_rides, now
from ride_messages import mix
from tests.testkit.kafka import Config, Headers

FAULTY = 0.03
DUPLICATES = 0.03
# A broker that is killed and comes back must not cost a message.
DELIVERY_S = 300
# Moritz, Geodetic Reference System 1980: the mean radius R1.
EARTH_RADIUS_KM = 6371.0088
COMFORTS = {"eco": "low", "comfort": "medium", "business": "high"}

Position = tuple[int, int]


class Sent(NamedTuple):
    """A message as it was sent. `fault` says why it cannot be priced; None for a good one."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    fault: str | None


class Feed:
    """Sends messages at a steady rate in the background; holds those that Kafka has acknowledged, by position."""

    def __init__(self, config: Config, topic: str, seed: int, rate: float) -> None:
        self.rate = rate
        self.acknowledged: dict[Position, Sent] = {}
        self.failures: list[str] = []
        self._topic = topic
        self._messages = known_messages(seed)
        self._ends: dict[int, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._wanted, self._idle, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._sent = 0
        self._producer = Producer(
            {
                **config,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "delivery.timeout.ms": DELIVERY_S * 1000,
                "log_level": 2,
            }
        )
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def resume(self) -> None:
        self._wanted.set()

    def pause(self) -> None:
        """Stop sending, and wait until Kafka has acknowledged everything."""
        self._idle.clear()
        self._wanted.clear()
        self._idle.wait(DELIVERY_S)
        deadline = time.monotonic() + DELIVERY_S
        while self._sent > len(self.acknowledged) + len(self.failures):
            assert time.monotonic() < deadline, f"{self._sent - len(self.acknowledged)} messages were not acknowledged"
            time.sleep(0.05)

    def close(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(10)

    def ends(self) -> dict[int, int]:
        """The offset behind the last acknowledged message of each partition."""
        with self._lock:
            return dict(self._ends)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self._producer.poll(0.01)
            if not self._wanted.is_set():
                self._idle.set()
                due = time.monotonic()
                continue
            while due <= time.monotonic() and self._wanted.is_set():
                self._send(next(self._messages))
                due += 1 / self.rate

    def _send(self, message: Sent) -> None:
        def delivered(error: KafkaError | None, report: Message) -> None:
            if error is not None:
                self.failures.append(str(error))
                return
            with self._lock:
                position = report.partition(), report.offset()
                self.acknowledged[position] = message
                self._ends[position[0]] = max(self._ends[position[0]], position[1] + 1)

        self._sent += 1
        self._producer.produce(self._topic, message.value, message.key, headers=message.headers, on_delivery=delivered)


def known_messages(seed: int) -> Iterator[Sent]:
    """Good, faulty and duplicate messages; the faulty ones with keys and headers of all kinds."""
    rng = random.Random(f"{seed}:headers")
    for message in mix(make_rides(NEW_YORK, seed, now), seed, FAULTY, DUPLICATES):
        if message.fault is None:
            yield Sent(message.key, message.value, [], None)
            continue
        key = rng.choice([message.key, message.key, None, b"", rng.randbytes(12)])
        own: Headers = [("trace", rng.randbytes(8)), ("trace", b"\x00\xff"), ("empty", b""), ("null", None)]
        yield Sent(key, message.value, rng.sample(own, rng.randrange(len(own) + 1)), message.fault)


def priced(value: bytes) -> dict[str, Any]:
    """What must become of a good message, computed without the code under test."""
    ride = json.loads(value)
    origin, destination = ride["origin"], ride["destination"]
    distance_km = haversine_km(origin["lat"], origin["lon"], destination["lat"], destination["lon"])
    numbers = {name: float(ride[name]) for name in ("duration_min", "price_base", "price_per_km", "price_per_min")}
    moment = datetime.fromisoformat(ride["ts"]).astimezone(UTC)
    return {
        "ride_id": ride["ride_id"].lower(),
        "ts": f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z",
        "origin": _point(origin),
        "destination": _point(destination),
        "comfort": COMFORTS.get(ride["comfort"], ride["comfort"]),
        **numbers,
        "distance_km": distance_km,
        "price_total": numbers["price_base"]
        + distance_km * numbers["price_per_km"]
        + numbers["duration_min"] * numbers["price_per_min"],
    }


def haversine_km(origin_lat: float, origin_lon: float, destination_lat: float, destination_lon: float) -> float:
    """Great-circle distance. Source: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984)."""
    half_phi = math.radians(destination_lat - origin_lat) / 2
    half_lambda = math.radians(destination_lon - origin_lon) / 2
    cosines = math.cos(math.radians(origin_lat)) * math.cos(math.radians(destination_lat))
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(math.sin(half_phi) ** 2 + cosines * math.sin(half_lambda) ** 2))


def _point(point: Mapping[str, Any]) -> dict[str, float]:
    return {"lat": float(point["lat"]), "lon": float(point["lon"])}
