"""Records of weather_stream: good ones, repeats, late ones, and faulty ones.

The contract is infra/kinesis/weather_stream.schema.json.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from weather_observation import Airport, Weather

REMEMBERED = 1000  # records from which repeated and faulty ones are made

OBSERVATION, LATE, REPEAT = "observation", "late", "repeat"

Envelope = dict[str, Any]
Fault = Callable[[Envelope], bytes]


class Record(NamedTuple):
    """A record. `kind` is OBSERVATION, LATE, REPEAT, or the label of a fault."""

    key: str
    value: bytes
    kind: str = OBSERVATION

    @property
    def size(self) -> int:
        """The bytes that count towards the limits of Kinesis."""
        return len(self.key.encode()) + len(self.value)


def make_record(weather: Weather, airports: Mapping[str, Airport]) -> Record:
    """The record of an observation. Its key is the city, so that a city's records stay in their order."""
    airport = airports[weather.place_id]
    envelope = {
        "ville": airport.city,
        "pays": airport.country,
        "aeroport": airport.iata,
        "data": weather,
        "timestamp": _read_seconds(weather.observed_at),
    }
    return Record(airport.city, msgspec.json.encode(envelope))


def _read_seconds(time: str) -> int | float:
    moment = datetime.fromisoformat(time)
    # A float has 16 digits: enough for the microseconds of these years.
    return moment.timestamp() if moment.microsecond else int(moment.timestamp())


def _encode(envelope: Envelope) -> bytes:
    return json.dumps(envelope, ensure_ascii=False).encode()


def _change(**fields: object) -> Fault:
    return lambda envelope: _encode(envelope | fields)


def _change_data(**fields: object) -> Fault:
    return lambda envelope: _encode(envelope | {"data": envelope["data"] | fields})


def _omit(name: str) -> Fault:
    return lambda envelope: _encode({key: value for key, value in envelope.items() if key != name})


OTHER_FORM = "other_unicode_form"

# The labels are the reasons of the consumer; the part after a slash tells apart several faults with the same reason.
FAULTS: dict[str, Fault] = {
    "invalid_utf8": lambda envelope: _encode(envelope)[:-1] + b', "note": "\xe9"}',
    "invalid_json": lambda envelope: _encode(envelope)[:-1],
    "invalid_json/nan": _change_data(temperature=float("nan")),
    "duplicate_key": lambda envelope: _encode(envelope)[:-1] + b', "ville": "Dakar"}',
    "not_an_object": lambda envelope: b"[" + _encode(envelope) + b"]",
    "missing_field": _omit("ville"),
    "missing_field/timestamp": _omit("timestamp"),
    "wrong_type": _change(timestamp="noon"),
    "invalid_text": _change(ville=" "),
    "invalid_number": _change_data(pm2_5=1e-200),
    "invalid_number/digits": _change_data(pm2_5=10**40 + 1),
    "invalid_timestamp": lambda envelope: _encode(envelope | {"timestamp": envelope["timestamp"] + 10 * 86_400}),
    "too_large": _change_data(note="x" * 1_000_000),
    # Valid: the same observation of the same city.
    OTHER_FORM: lambda envelope: _encode(envelope | {"ville": unicodedata.normalize("NFD", envelope["ville"])}),
}


class Mixer:
    """Adds faulty records and repeats to good ones, and holds some back until a newer one of their city has passed.

    Args:
        faulty: the share of faulty records, of each kind in turn.
        duplicates: the share of repeats and of late records, in equal parts.
    """

    def __init__(self, seed: int, faulty: float, duplicates: float) -> None:
        self._rng = random.Random(f"{seed}/faults")
        self._faulty, self._repeats = faulty, duplicates / 2
        # A city with a record that is held back holds no other, so that more of the others are.
        late = duplicates / 2 / (1 - faulty - duplicates / 2)
        self._late = late / (1 - late)
        self._labels = self._draw_labels()
        self._remembered: list[Record] = []
        self.held: dict[str, Record] = {}

    def mix(self, record: Record) -> Iterator[Record]:
        """A good record, unless it is held back, and what comes after it."""
        if record.key not in self.held and self._rng.random() < self._late:
            self.held[record.key] = record._replace(kind=LATE)
            return
        yield record
        if record.key in self.held:
            yield self.held.pop(record.key)
        self._remember(record)
        while (chance := self._rng.random()) < self._faulty + self._repeats:
            old = self._rng.choice(self._remembered)
            yield self._make_faulty(old) if chance < self._faulty else old._replace(kind=REPEAT)

    def release(self) -> list[Record]:
        """The records that are still held back."""
        held = list(self.held.values())
        self.held.clear()
        return held

    def _remember(self, record: Record) -> None:
        if len(self._remembered) == REMEMBERED:
            self._remembered.pop(self._rng.randrange(REMEMBERED))
        self._remembered.append(record)

    def _make_faulty(self, record: Record) -> Record:
        label = next(self._labels)
        if label == OTHER_FORM:
            # Most cities have one form only.
            forms = [one for one in self._remembered if not unicodedata.is_normalized("NFD", one.key)]
            if forms:
                record = self._rng.choice(forms)
            else:
                label = next(self._labels)
        return Record(record.key, FAULTS[label](json.loads(record.value)), label)

    def _draw_labels(self) -> Iterator[str]:
        """Endless labels: each round has every label once, in random order."""
        while True:
            labels = self._rng.sample(list(FAULTS), len(FAULTS))
            # Two rounds must not meet at this one, which may be skipped.
            yield from sorted(labels, key=lambda label: label == OTHER_FORM)
