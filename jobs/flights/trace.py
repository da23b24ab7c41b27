"""Find one observation in the buffer, the topics and the stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec

from jobs.clients import Systems
from jobs.errors import ConfigurationError
from jobs.flights import cassandra, database
from jobs.flights.buffer import FIRST, name_stream, open_buffer
from jobs.flights.contract import Kind
from jobs.flights.ledger import TABLES
from jobs.flights.vertical import FlightsSettings
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.offsets import SETTLE_S, list_partitions, read_bounds
from jobs.kafka.scan import claim_all, scan
from jobs.tracing import Sighting, make_sighting

_PAGE = 1_000  # entries


def trace(systems: Systems[FlightsSettings], event_id: str) -> Iterator[Sighting]:
    """Yield each place that holds the observation, upstream first. Reads whole topics.

    Raises:
        ConfigurationError: the id is not a UUID.
        ServiceUnavailableError: a service does not answer.
    """
    try:
        wanted = UUID(event_id)
    except ValueError as error:
        raise ConfigurationError(f"{event_id!r} is not an event_id, which is a UUID.") from error
    yield from _find_in_buffer(systems.settings, str(wanted))
    topics = _find_in_topics(systems, str(wanted))
    keys: dict[Kind, dict[str, Any]] = {}
    for sighting in topics:
        yield sighting
        content = msgspec.json.decode(sighting.content or b"") if isinstance(sighting.content, bytes) else {}
        if "flight_id" in content:
            keys[Kind.FLIGHT] = content
        elif "place_id" in content:
            keys[Kind.WEATHER] = content
    if Kind.FLIGHT in keys:
        yield from _find_in_mysql(systems.settings, str(wanted))
    for kind, found in keys.items():
        yield from _find_in_cassandra(systems.settings, kind, found, wanted)


def _find_in_buffer(settings: FlightsSettings, event_id: str) -> Iterator[Sighting]:
    with open_buffer(settings) as buffer:
        for kind in Kind:
            position = FIRST
            while entries := buffer.read(kind, position, _PAGE):
                position = entries[-1].id
                for entry in entries:
                    if event_id.encode() in entry.value:
                        yield Sighting(name_stream(kind), {"entry": entry.id}, entry.value)


def _find_in_topics(systems: Systems[FlightsSettings], event_id: str) -> Iterator[Sighting]:
    settings, config, wanted = systems.settings, systems.config, f'"{event_id}"'.encode()
    topics = (settings.flights_topic, settings.flights_weather_topic, settings.flights_dlq_topic)
    with translate_broker_errors(config, "tracing an observation"), open_consumer(config, "trace") as client:
        for topic in topics:
            ranges = claim_all(read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S))
            for messages in scan(client, topic, ranges, systems.progress, "reading"):
                yield from (make_sighting(message) for message in messages if wanted in (message.value() or b""))


def _find_in_mysql(settings: FlightsSettings, event_id: str) -> Iterator[Sighting]:
    with database.connect(settings, database.READER) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM flights WHERE event_id = %s", (event_id,))
        for row in cursor.fetchall():
            yield Sighting("MySQL: flights", {"flight_id": row["flight_id"]}, dict(row))


def _find_in_cassandra(
    settings: FlightsSettings, kind: Kind, found: dict[str, Any], event_id: UUID
) -> Iterator[Sighting]:
    """Read the partition of an observation."""
    if kind is Kind.FLIGHT:
        condition, key = (
            "airport = %s AND day = %s",
            (found["departure_airport"], found["scheduled_departure"][:10]),
        )
    else:
        condition, key = "place_id = %s AND day = %s", (found["place_id"], found["observed_at"][:10])
    with cassandra.connect(settings) as session:
        for row in session.execute(f"SELECT * FROM {TABLES[kind]} WHERE {condition}", key):  # noqa: S608
            if row.event_id == event_id:
                content = {**row._asdict(), "event_id": event_id}
                yield Sighting(f"Cassandra: {TABLES[kind]}", {"partition": " ".join(key)}, content)
