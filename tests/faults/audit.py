"""Compares what the systems hold with what was sent, message by message and ride by ride.

Pure functions of records; `reading.py` gets them from the systems. Each round checks what is new since the last one,
and that what was there before is unchanged.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from tests.faults.feed import Position, Sent, priced
from tests.testkit.kafka import Record

# Two ways to compute one formula differ in the last bits; near each other, a coordinate's last bit is a nanometre.
TOLERANCE = {"rel_tol": 1e-12, "abs_tol": 1e-9}
NUMBERS = ("duration_min", "price_base", "price_per_km", "price_per_min", "distance_km", "price_total")
SHOWN = 20
_OBJECT = re.compile(
    r"(?P<hour>\d{4}/\d\d/\d\d/\d\d)/(?P<topic>[^/]+)-(?P<partition>\d{5})-(?P<first>\d{20})-(?P<last>\d{20})\.parquet"
)


class Row(NamedTuple):
    """A row of a Parquet object."""

    object: str
    values: Mapping[str, Any]

    @property
    def position(self) -> Position:
        return self.values["kafka_partition"], self.values["kafka_offset"]


class Document(NamedTuple):
    """A document of the index."""

    version: int
    source: Mapping[str, Any]


class Audit:
    """What should be where, and every way in which a system differs."""

    def __init__(self, raw_topic: str, result_topic: str) -> None:
        self.raw_topic, self.result_topic = raw_topic, result_topic
        self.sent: dict[Position, Sent] = {}
        self.owed: Counter[str] = Counter()  # results that a ride has still to get
        self.expected: dict[str, dict[str, Any]] = {}
        self.results: dict[Position, str] = {}  # ride by position on the result topic
        self.newest: dict[str, Position] = {}  # the last result of each ride
        self.rows: dict[Position, str] = {}  # object by position on the result topic
        self.buried: set[Position] = set()  # raw positions that have their dead letter
        self.differences: list[str] = []
        self._fresh_rides: set[str] = set()
        self._unseen: set[Position] = set()  # acknowledged, and not yet read from the raw topic

    def send(self, sent: Mapping[Position, Sent]) -> None:
        """Take note of messages that Kafka acknowledged; those known already are skipped."""
        for position, message in sent.items():
            if position in self.sent:
                continue
            self.sent[position] = message
            self._unseen.add(position)
            if message.fault is None:
                expected = priced(message.value or b"")
                self.expected[expected["ride_id"]] = expected
                self.owed[expected["ride_id"]] += 1
                self._fresh_rides.add(expected["ride_id"])

    def check_raw(self, records: Iterable[Record]) -> None:
        """The raw topic holds each message that was sent, once, and nothing else."""
        for record in records:
            position = record.partition, record.offset
            self._unseen.discard(position)
            sent = self.sent.get(position)
            if sent is None:
                self._tell(self.raw_topic, position, "nobody sent this")
            elif (record.key, record.value, record.headers or []) != (sent.key, sent.value, sent.headers):
                self._tell(self.raw_topic, position, "is not what was sent")
        for position in sorted(self._unseen):
            self._tell(self.raw_topic, position, "was acknowledged and is not there")

    def check_results(self, records: Iterable[Record]) -> None:
        """New results: each good message has exactly one, with the right content and key."""
        for record in records:
            position = record.partition, record.offset
            try:
                result = json.loads(record.value or b"")
                ride_id = result["ride_id"]
            except (ValueError, KeyError, TypeError):
                self._tell(self.result_topic, position, f"is no result: {record.value!r:.100}")
                continue
            self.results[position] = ride_id
            self.newest[ride_id] = max(position, self.newest.get(ride_id, position))
            if self.owed[ride_id] < 1:
                self._tell(self.result_topic, position, f"ride {ride_id} has one result too many")
            self.owed[ride_id] -= 1
            if record.key != ride_id.encode():
                self._tell(self.result_topic, position, f"key {record.key!r} is not the ride {ride_id}")
            if ride_id in self.expected:
                self._compare(self.result_topic, position, result, self.expected[ride_id])
        for ride_id, count in self.owed.items():
            if count > 0:
                self.differences.append(f"{self.result_topic}: ride {ride_id} lacks {count} of its results")
        self.owed = +self.owed

    def check_dead_letters(self, letters: Iterable[Record]) -> None:
        """New dead letters: each bad message has exactly one, byte for byte, its own headers before the error's."""
        for letter in letters:
            where = letter.partition, letter.offset
            if letter.error.get("topic") != self.raw_topic:
                self._tell("dead letters", where, f"comes from {letter.error.get('topic')!r}")
                continue
            position = int(letter.error["partition"]), int(letter.error["offset"])
            sent = self.sent.get(position)
            if sent is None or sent.fault is None:
                self._tell("dead letters", where, f"its source {position} is {'nothing' if sent is None else 'good'}")
                continue
            if position in self.buried:
                self._tell("dead letters", where, f"its source {position} is there twice")
            self.buried.add(position)
            headers = letter.headers or []
            if (letter.key, letter.value, headers[: len(sent.headers)]) != (sent.key, sent.value, sent.headers):
                self._tell("dead letters", where, f"is not byte for byte what {position} is")
            if any(not name.startswith("__connect.errors.") for name, _ in headers[len(sent.headers) :]):
                self._tell("dead letters", where, "has headers that nobody gave it")
            if letter.error.get("exception.class.name") != sent.fault:
                self._tell("dead letters", where, f"says {letter.error.get('exception.class.name')}, not {sent.fault}")
        for position, message in self.sent.items():
            if message.fault is not None and position not in self.buried:
                self._tell(self.raw_topic, position, f"is bad ({message.fault}) and has no dead letter")

    def fresh_rides(self) -> set[str]:
        """The rides of which messages were sent since this was last asked."""
        fresh, self._fresh_rides = self._fresh_rides, set()
        return fresh

    def check_documents(self, rides: Iterable[str], documents: Mapping[str, Document]) -> None:
        """Elasticsearch has each of these rides, as its newest result."""
        for ride_id in rides:
            document = documents.get(ride_id)
            if document is None:
                self.differences.append(f"Elasticsearch: ride {ride_id} is missing")
                continue
            source = dict(document.source)
            place = source.get("kafka_partition"), source.get("kafka_offset")
            if place != self.newest.get(ride_id) or document.version != source.get("kafka_offset"):
                self._tell("Elasticsearch", place, f"ride {ride_id} is of {self.newest.get(ride_id)}")
            self._compare("Elasticsearch", place, source, self.expected[ride_id])

    def check_versions(self, versions: Mapping[str, int]) -> None:
        """Elasticsearch has no other rides than those that were sent, each still as its newest result."""
        for ride_id in sorted(versions.keys() ^ self.expected.keys())[:SHOWN]:
            what = "unknown" if ride_id in versions else "missing"
            self.differences.append(f"Elasticsearch: ride {ride_id} is {what}")
        stale = [ride_id for ride_id, newest in self.newest.items() if versions.get(ride_id, newest[1]) != newest[1]]
        for ride_id in sorted(stale)[:SHOWN]:
            self.differences.append(
                f"Elasticsearch: ride {ride_id} has version {versions[ride_id]}, its newest result is at "
                f"{self.newest[ride_id]}"
            )

    def check_rows(self, rows: Iterable[Row]) -> None:
        """New Parquet rows: each result is exactly one row, in an object whose name says so."""
        for row in rows:
            position, values = row.position, row.values
            if position in self.rows:
                self._tell(f"Parquet {row.object}", position, f"is in {self.rows[position]} too")
            self.rows[position] = row.object
            ride_id: str = values["ride_id"]
            if ride_id != self.results.get(position):
                self._tell(f"Parquet {row.object}", position, f"is ride {ride_id}, not {self.results.get(position)}")
                continue
            named = _OBJECT.search(row.object)
            covers = named and int(named["partition"]) == position[0] and named["topic"] == self.result_topic
            covers = covers and int(named["first"]) <= position[1] <= int(named["last"])  # type: ignore[index]
            if not (named and covers) or named["hour"] != f"{values['ts']:%Y/%m/%d/%H}":
                self._tell(f"Parquet {row.object}", position, "does not belong into an object of this name")
            self._compare(f"Parquet {row.object}", position, _nested(values), self.expected[ride_id])
        for position in sorted(self.results.keys() - self.rows.keys()):
            self._tell("Parquet", position, f"the result of ride {self.results[position]} is missing")

    def _compare(self, system: str, place: object, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        for name, value in expected.items():
            has = actual.get(name)
            if name in NUMBERS:
                same = isinstance(has, float | int) and math.isclose(has, value, **TOLERANCE)
            else:
                same = has == value
            if not same:
                self._tell(system, place, f"{name} of ride {expected['ride_id']} is {has!r}, not {value!r}")

    def _tell(self, system: str, place: object, what: str) -> None:
        self.differences.append(f"{system} {place}: {what}")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its points and its time as the result has them."""
    moment: datetime = values["ts"]
    nested = {**values, "ts": f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"}
    for point in ("origin", "destination"):
        nested[point] = {"lat": values[f"{point}_lat"], "lon": values[f"{point}_lon"]}
    return nested


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Objects (checksum by name) of an earlier round that are gone or hold something else now."""
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for name, checksum in before.items():
        if name not in after:
            faults["is gone"].append(name)
        elif after[name] != checksum:
            faults["holds something else than before"].append(name)
    return [f"Parquet {name} {what}" for what, names in faults.items() for name in names]
