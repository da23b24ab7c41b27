"""The ledger of the stream on Spark: every ride that the group has passed is one result or one dead letter.

It compares rides by their ride_id, and dead letters by the position of their message, not only counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from confluent_kafka import Message

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import is_dead_letter_of, read_error, read_headers, read_position
from jobs.kafka.offsets import list_held_back, read_group_offsets
from jobs.kafka.scan import claim_all, scan
from jobs.ledger import verdict
from jobs.ledger.snapshot import take_snapshot
from jobs.ledger.verdict import Figure
from jobs.rides.spark.vertical import STREAM_GROUP, SparkSettings

Position = tuple[int, int]  # partition, offset


class Ledger(verdict.Ledger, kw_only=True):
    """Counts of messages. `pending`: those of RAW_TOPIC that the group has not passed."""

    raw: int
    result: int
    dlq: int
    dlq_by_reason: dict[str, int]
    pending: int

    @property
    def is_in_progress(self) -> bool:
        return self.pending > 0

    @property
    def figures(self) -> list[Figure]:
        names = {"raw": self.raw, "  result": self.result, "  dlq": self.dlq, "  pending": self.pending}
        return [Figure(name, count, "Kafka") for name, count in names.items()]

    @property
    def notes(self) -> list[str]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.dlq_by_reason.items())
        return [f"dlq by reason: {reasons}"] if reasons else []


class _RideId(msgspec.Struct):
    ride_id: str


_decode_ride_id = msgspec.json.Decoder(_RideId).decode


def take_ledger(systems: Systems[SparkSettings]) -> Ledger:
    """Count the rides of the stream.

    Raises:
        ServiceUnavailableError: the broker does not answer, or the stream commits too often for a consistent snapshot.
    """
    settings, config = systems.settings, systems.config
    topics = (settings.raw_topic, settings.spark_result_topic, settings.spark_dlq_topic)
    with translate_broker_errors(config, "taking the ledger"), open_consumer(config, "spark-ledger") as client:
        passed, all_bounds = take_snapshot(
            config, client, topics, lambda: read_group_offsets(config, settings.raw_topic, STREAM_GROUP)
        )
        bounds = dict(zip(topics, all_bounds, strict=True))

        def read(topic: str) -> Iterable[Message]:
            lists = scan(client, topic, claim_all(bounds[topic]), systems.progress, "counting")
            return (message for messages in lists for message in messages)

        letters = [headers for message in read(settings.spark_dlq_topic) if (headers := read_headers(message))]
        own = [headers for headers in letters if is_dead_letter_of(headers, settings.raw_topic, STREAM_GROUP)]
        dead = Counter(position for headers in own if (position := read_position(headers)))
        results = Counter(_read_id(message) for message in read(settings.spark_result_topic))
        rides: Counter[str] = Counter()
        rejects: set[Position] = set()
        raw = 0
        for message in read(settings.raw_topic):
            raw += 1
            position = message.partition(), message.offset()
            if position[1] >= (passed[position[0]] or 0):
                continue
            if position in dead:
                rejects.add(position)
            else:
                rides[_read_id(message)] += 1
    missing, more = rides - results, results - rides
    twice = {position for position, count in dead.items() if count > 1}
    unknown = dead.keys() - rejects
    faults = [
        *_describe("rides are in neither topic", missing),
        *_describe("results are doubled, or of no ride", more),
        *_describe("dead letters are doubled", twice),
        *_describe("dead letters are of no message", unknown),
    ]
    deleted = sum(bound.low for topic in topics for bound in bounds[topic].values())
    if deleted:
        faults.append(f"Retention has deleted {deleted} messages, so the figures cannot be compared")
    processed = rides.total() + len(rejects)
    return Ledger(
        balanced=None if deleted else not faults,
        faults=faults,
        lost=0 if deleted else missing.total(),
        doubled=0 if deleted else more.total() + len(twice) + len(unknown),
        held_back=[held for topic in topics for held in list_held_back(topic, bounds[topic])],
        raw=raw,
        result=results.total(),
        dlq=len(own),
        dlq_by_reason=dict(Counter(read_error(headers, "exception.class.name") for headers in own).most_common()),
        pending=raw - processed,
    )


def _read_id(message: Message) -> str:
    """The ride_id in its canonical form; empty if the message has none, so that it equals no result."""
    try:
        return _decode_ride_id(message.value() or b"").ride_id.lower()
    except msgspec.MsgspecError:
        return ""


def _describe(what: str, those: Iterable[object]) -> list[str]:
    listed = sorted(map(str, those))
    return [f"{len(listed)} {what}: {', '.join(listed[:5])}{' …' if len(listed) > 5 else ''}"] if listed else []
