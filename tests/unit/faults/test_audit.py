"""The audit of the fault campaign notices every way in which a system can differ."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import pytest

from tests.faults.audit import Audit, Document, Row, changed
from tests.faults.feed import Position, Sent, known_messages, priced
from tests.testkit.kafka import Record
from tests.testkit.rides import encode, ride

RESULT = "rides_result"


@dataclass
class World:
    """The correct content of the systems: three valid rides, one of them sent twice, and two bad messages."""

    sent: dict[Position, Sent] = field(default_factory=dict)
    raw: list[Record] = field(default_factory=list)
    results: list[Record] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def faults(self) -> list[str]:
        audit = Audit("rides_raw", RESULT)
        audit.send(self.sent)
        audit.check_raw(self.raw)
        audit.check_results(self.results)
        audit.check_dead_letters(self.letters)
        audit.check_documents(sorted(audit.fresh_rides()), self.documents)
        audit.check_versions({ride_id: document.version for ride_id, document in self.documents.items()})
        audit.check_rows(self.rows)
        return audit.differences


@pytest.fixture
def world() -> World:
    made = World()
    good = [ride(comfort="eco", ts="2026-01-05T10:15:30.5+02:00"), ride(), ride()]
    messages = [Sent(content["ride_id"].encode(), encode(content), [], None) for content in [*good, good[0]]]
    messages += [Sent(None, b"{", [("trace", b"\x00")], "invalid_json"), Sent(b"k", None, [], "empty_value")]
    for offset, message in enumerate(messages):
        made.sent[0, offset] = message
        made.raw.append(Record(message.key, message.value, message.headers or None, 0, offset))
    for offset, message in enumerate(messages[:4]):
        result = priced(message.value or b"")
        made.results.append(Record(result["ride_id"].encode(), encode(result), None, 1, offset))
        place = {"kafka_partition": 1, "kafka_offset": offset}
        made.documents[result["ride_id"]] = Document(offset, {**result, **place})
        moment = datetime.fromisoformat(result["ts"])
        points = {
            f"{point}_{axis}": result[point][axis] for point in ("origin", "destination") for axis in ("lat", "lon")
        }
        name = f"rides/{moment:%Y/%m/%d/%H}/{RESULT}-00001-{0:020d}-{3:020d}.parquet"
        made.rows.append(Row(name, {**result, **points, **place, "ts": moment}))
    for offset in (4, 5):
        message = messages[offset]
        why = {"topic": "rides_raw", "partition": 0, "offset": offset, "exception.class.name": message.fault}
        headers = [(f"__connect.errors.{name}", str(value).encode()) for name, value in why.items()]
        made.letters.append(Record(message.key, message.value, [*message.headers, *headers], 0, offset))
    return made


def test_a_correct_state_has_no_differences(world: World) -> None:
    assert world.faults() == []


def _with(record: Record, **members: Any) -> Record:
    return record._replace(value=encode(json.loads(record.value or b"") | members))


def _price(world: World) -> None:
    world.results[1] = _with(world.results[1], price_total=1.0)


def _twice_at_another_place(world: World) -> None:
    world.results.append(world.results[1]._replace(offset=9))


def _stale(world: World) -> None:
    ride_id, document = next(iter(world.documents.items()))
    world.documents[ride_id] = Document(0, {**document.source, "kafka_offset": 0})


def _row_twice(world: World) -> None:
    world.rows.append(world.rows[2]._replace(object=world.rows[2].object.replace("rides/", "twin/")))


def _wrong_hour(world: World) -> None:
    world.rows[1] = world.rows[1]._replace(object=world.rows[1].object.replace("/08/", "/09/"))


def _outside_its_name(world: World) -> None:
    world.rows[3] = world.rows[3]._replace(object=world.rows[3].object.replace(f"{3:020d}", f"{2:020d}"))


def _row_value(world: World) -> None:
    world.rows[0] = Row(world.rows[0].object, {**world.rows[0].values, "distance_km": 0.0})


def _header_lost(world: World) -> None:
    world.letters[0] = world.letters[0]._replace(headers=(world.letters[0].headers or [])[1:])


def _another_reason(world: World) -> None:
    headers = world.letters[1].headers or []
    headers = [(name, b"wrong_type" if "class" in name else value) for name, value in headers]
    world.letters[1] = world.letters[1]._replace(headers=headers)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        pytest.param(
            lambda world: world.raw.append(world.raw[0]._replace(offset=9)), "nobody sent this", id="raw-too-many"
        ),
        pytest.param(lambda world: world.raw.pop(), "was acknowledged and is not there", id="raw-lost"),
        pytest.param(
            lambda world: world.raw.append(world.raw.pop()._replace(value=b"?")), "not what was sent", id="raw-wrong"
        ),
        pytest.param(lambda world: world.results.pop(1), "lacks 1 of its results", id="result-lost"),
        pytest.param(lambda world: world.results.pop(3), "lacks 1 of its results", id="result-of-a-duplicate-lost"),
        pytest.param(_twice_at_another_place, "one result too many", id="result-doubled"),
        pytest.param(_price, "price_total of ride", id="result-wrong"),
        pytest.param(lambda world: world.letters.pop(), "has no dead letter", id="dead-letter-lost"),
        pytest.param(lambda world: world.letters.append(world.letters[0]), "is there twice", id="dead-letter-doubled"),
        pytest.param(_header_lost, "not byte for byte", id="dead-letter-changed"),
        pytest.param(_another_reason, "says wrong_type, not empty_value", id="dead-letter-reason"),
        pytest.param(lambda world: world.documents.popitem(), "is missing", id="document-lost"),
        pytest.param(
            lambda world: world.documents.update(x=Document(0, {})), "ride x is unknown", id="document-too-many"
        ),
        pytest.param(_stale, "is of (1, 3)", id="document-of-an-older-result"),
        pytest.param(lambda world: world.rows.pop(0), "is missing", id="row-lost"),
        pytest.param(_row_twice, "is in rides/", id="row-doubled"),
        pytest.param(_wrong_hour, "does not belong into an object of this name", id="row-of-another-hour"),
        pytest.param(_outside_its_name, "does not belong into an object of this name", id="row-outside-its-name"),
        pytest.param(_row_value, "distance_km of ride", id="row-wrong"),
    ],
)
def test_every_difference_is_reported(world: World, spoil: Callable[[World], object], complaint: str) -> None:
    spoiled = copy.deepcopy(world)
    spoil(spoiled)
    faults = spoiled.faults()
    assert any(complaint in fault for fault in faults), faults


def test_changed_documents_of_earlier_rounds_are_reported(world: World) -> None:
    audit = Audit("rides_raw", RESULT)
    audit.send(world.sent)
    audit.check_results(world.results)
    versions = {ride_id: document.version for ride_id, document in world.documents.items()}
    audit.check_versions(versions)
    assert audit.differences == []
    ride_id = next(iter(versions))
    audit.check_versions(versions | {ride_id: 0})
    assert audit.differences == [f"Elasticsearch: ride {ride_id} has version 0, its newest result is at (1, 3)"]


def test_changed_objects_are_reported() -> None:
    before = {"a": "1", "b": "2", "c": "3"}
    assert changed(before, {"a": "1", "b": "9", "d": "4"}) == [
        "Parquet b holds something else than before",
        "Parquet c is gone",
    ]


def test_the_feed_labels_every_message_it_sends() -> None:
    messages = list(islice(known_messages(7), 2_000))
    faults = [message for message in messages if message.fault]
    good = [message.value for message in messages if not message.fault]
    assert 20 < len(faults) < 120
    assert 20 < len(good) - len(set(good)) < 120
    assert {message.key is None for message in faults} == {True, False}
    assert any(message.headers for message in faults)
