"""The ledger of the flights: every input is in one place, counted in Redis, Kafka, MySQL and Cassandra.

collected = observations + rejects + repeats, buffered = relayed + waiting, and each event_id on Kafka is in the stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import msgspec
from cassandra.query import SimpleStatement
from confluent_kafka import Consumer, Message

from jobs.clients import Systems
from jobs.flights import cassandra, database
from jobs.flights.buffer import Counts, open_buffer
from jobs.flights.contract import Kind
from jobs.flights.relay import Position, Route, list_routes, read_position
from jobs.flights.vertical import FlightsSettings
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import read_error, read_headers
from jobs.kafka.offsets import SETTLE_S, Bounds, HeldBack, list_held_back, list_partitions, read_bounds
from jobs.kafka.scan import Claim, claim_all, scan
from jobs.ledger import verdict
from jobs.ledger.verdict import Figure

TABLES = {Kind.FLIGHT: "flight_events_by_airport_day", Kind.WEATHER: "weather_by_place_day"}
_PAGE = 5_000  # rows
_TRIES = 20

State = tuple[str, str]  # observed_at, event_id


class _Event(msgspec.Struct, frozen=True):
    """What the ledger reads of a message."""

    event_id: str
    observed_at: str
    flight_id: str = ""


class Events(msgspec.Struct):
    """The messages of one topic.

    Attributes:
        count: messages of the relay; foreign: others, which dag_clean_flights rejects.
        ids: event_ids, as 16 bytes.
        newest: the newest state of each flight.
    """

    count: int = 0
    foreign: int = 0
    ids: set[bytes] = msgspec.field(default_factory=set)
    newest: dict[str, State] = msgspec.field(default_factory=dict)

    def add(self, message: Message) -> None:
        try:
            event = msgspec.json.decode(message.value() or b"", type=_Event)
            event_id = UUID(event.event_id).bytes
        except (msgspec.MsgspecError, ValueError):
            self.foreign += 1
            return
        self.count += 1
        self.ids.add(event_id)
        if event.flight_id:
            state = (event.observed_at, event.event_id)
            self.newest[event.flight_id] = max(state, self.newest.get(event.flight_id, state))


class KindLedger(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one kind.

    Attributes:
        counts: made by the buffer, by source.
        waiting: entries of the buffer that are not relayed.
        before, after: the relay's positions before and after buffer and topics were read.
        on_topic: messages of the relay; distinct: their event_ids; foreign: messages that the relay did not write.
        has_expired, letters_have_expired: whether retention has deleted messages, or dead letters.
        dead_letters: of the relay.
        stored: rows in Cassandra.
        missing: event_ids on the topic that are not in Cassandra; unknown: rows of Cassandra that are on no topic.
        held_back: offsets behind open transactions.
    """

    kind: Kind
    topic: str
    counts: Counts
    waiting: int
    before: Position
    after: Position
    on_topic: int
    distinct: int
    foreign: int
    has_expired: bool
    letters_have_expired: bool
    dead_letters: int
    stored: int
    missing: int
    unknown: int
    held_back: list[HeldBack]

    @property
    def is_moving(self) -> bool:
        """Whether the relay has committed during the count."""
        return self.before != self.after

    @property
    def expired(self) -> int:
        """Messages that retention has deleted."""
        return max(0, self.before.relayed - self.on_topic) if self.has_expired else 0

    @property
    def lost(self) -> int:
        return sum(max(0, count) for count in self._list_lost().values())

    @property
    def doubled(self) -> int:
        return sum(max(0, count) for count in self._list_doubled().values())

    @property
    def faults(self) -> list[str]:
        counts = self._list_lost() | self._list_doubled()
        counts[f"rows of Cassandra are not on {self.topic}"] = self.unknown
        return [fault for what, count in counts.items() for fault in _report(what, count)]

    def _list_lost(self) -> dict[str, int]:
        letters = 0 if self.letters_have_expired else self.before.rejected - self.dead_letters
        return {
            f"entries of buffer:{self.kind} are gone": -self._surplus,
            f"messages of {self.topic} are gone": self.before.relayed - self.on_topic - self.expired,
            f"dead letters of {self.topic} are gone": letters,
            f"event_ids of {self.topic} are not in Cassandra": self.missing,
        }

    def _list_doubled(self) -> dict[str, int]:
        return {
            f"entries of buffer:{self.kind} were relayed twice": self._surplus,
            f"messages of {self.topic} are there twice": self.on_topic - self.after.relayed,
            f"dead letters of {self.topic} are there twice": self.dead_letters - self.after.rejected,
        }

    @property
    def _surplus(self) -> int:
        """Entries that were relayed or wait, without those that were added; 0 while they move."""
        if self.is_moving or self.counts.buffer not in ("", self.before.buffer):
            return 0
        return self.before.from_buffer + self.waiting - self.counts.added


class Ledger(verdict.Ledger, kw_only=True):
    """The counts of both kinds, and the flights in MySQL whose state is not the newest on Kafka."""

    kinds: list[KindLedger]
    flights: int
    outdated: int

    @property
    def waiting(self) -> int:
        return sum(kind.waiting for kind in self.kinds)

    @property
    def is_in_progress(self) -> bool:
        return self.waiting > 0 or any(kind.is_moving for kind in self.kinds)

    @property
    def figures(self) -> list[Figure]:
        figures = []
        for kind in self.kinds:
            counts = kind.counts
            figures += [
                Figure(f"{kind.topic}: collected", sum(counts.collected.values()), "Redis"),
                *(Figure(f"  {source}", count, "Redis") for source, count in sorted(counts.collected.items())),
                Figure("  repeats", sum(counts.repeated.values()), "Redis"),
                Figure("  waiting", kind.waiting, "Redis"),
                Figure("  relayed", kind.before.relayed, "Kafka"),
                *([Figure("  expired from the topic", kind.expired, "Kafka")] if kind.expired else []),
                Figure("  event_ids on the topic", kind.distinct, "Kafka"),
                Figure("  dead letters", kind.dead_letters, "Kafka"),
                Figure("  rows", kind.stored, "Cassandra"),
            ]
        return [*figures, Figure("flights in their newest state", self.flights, "MySQL")]

    @property
    def notes(self) -> list[str]:
        lines = []
        for kind in self.kinds:
            collected, repeated = sum(kind.counts.collected.values()), sum(kind.counts.repeated.values())
            sign = "=" if collected == kind.counts.added + repeated else "≠"
            lines.append(
                f"{kind.topic}: collected {collected:,} {sign} observations {sum(kind.counts.observed.values()):,} + "
                f"rejects {sum(kind.counts.rejected.values()):,} + repeats {repeated:,}"
            )
        return lines


def take_ledger(systems: Systems[FlightsSettings]) -> Ledger:
    """Count the flights and the weather.

    Raises:
        ServiceUnavailableError: a service does not answer.
    """
    settings, config = systems.settings, systems.config
    kinds: list[KindLedger] = []
    newest: dict[str, State] = {}
    with translate_broker_errors(config, "counting the flights"), open_consumer(config, "flights-ledger") as client:
        for route in list_routes(settings):
            kind, events = _count_kind(systems, client, route)
            kinds.append(kind)
            newest |= events.newest
    flights = _read_flights(settings)
    outdated = sum(flights.get(flight_id, ("", "")) < state for flight_id, state in newest.items())
    faults = [fault for kind in kinds for fault in kind.faults]
    faults += _report("flights in MySQL are not in their newest state", outdated)
    return Ledger(
        balanced=not faults,
        faults=faults,
        lost=sum(kind.lost for kind in kinds) + outdated,
        doubled=sum(kind.doubled for kind in kinds),
        held_back=[part for kind in kinds for part in kind.held_back],
        kinds=kinds,
        flights=len(flights),
        outdated=outdated,
    )


def _count_kind(systems: Systems[FlightsSettings], client: Consumer, route: Route) -> tuple[KindLedger, Events]:
    before, (counts, waiting), bounds, after = _read_at_rest(systems, client, route)
    topic_bounds = bounds[route.topic]
    events = _read_events(systems, client, route.topic, claim_all(topic_bounds))
    letters = _count_letters(systems, client, route, claim_all(bounds[route.dlq_topic]))
    # After Kafka: the relay writes Cassandra first, so it has at least what Kafka has.
    with cassandra.connect(systems.settings) as session:
        stored = set(_read_ids(session, TABLES[route.kind]))
    # What has come to the topic meanwhile.
    ends = read_bounds(systems.config, client, route.topic, list(topic_bounds), settle_s=SETTLE_S)
    newer = [Claim(partition, topic_bounds[partition].end, bound.end) for partition, bound in ends.items()]
    known = events.ids | _read_events(systems, client, route.topic, newer).ids
    has_expired = any(bound.low for bound in topic_bounds.values())
    # The relay may have written Cassandra for a transaction that is not on the topic yet.
    with open_buffer(systems.settings) as buffer:
        _, still_waiting, _ = buffer.count_after(route.kind, after.buffer, after.entry)
    is_at_rest = before == read_position(systems.config, client, route) and not waiting + still_waiting
    kind = KindLedger(
        kind=route.kind,
        topic=route.topic,
        counts=counts,
        waiting=waiting,
        before=before,
        after=after,
        on_topic=events.count,
        distinct=len(events.ids),
        foreign=events.foreign,
        has_expired=has_expired,
        letters_have_expired=any(bound.low for bound in bounds[route.dlq_topic].values()),
        dead_letters=letters,
        stored=len(stored),
        missing=len(events.ids - stored),
        unknown=len(stored - known) if is_at_rest and not has_expired else 0,
        held_back=[part for topic, bound in bounds.items() for part in list_held_back(topic, bound)],
    )
    return kind, events


def _read_at_rest(
    systems: Systems[FlightsSettings], client: Consumer, route: Route
) -> tuple[Position, tuple[Counts, int], dict[str, dict[int, Bounds]], Position]:
    """The position, the buffer and the ends of the topics, if possible at a moment without a transaction between.

    Returns:
        the position before the others were read, those, and the position after.
    """
    config = systems.config
    for _ in range(_TRIES):
        before = read_position(config, client, route)
        with open_buffer(systems.settings) as buffer:
            counts, waiting, _ = buffer.count_after(route.kind, before.buffer, before.entry)
        bounds = {
            topic: read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S)
            for topic in (route.topic, route.dlq_topic)
        }
        after = read_position(config, client, route)
        if before == after:
            break
    return before, (counts, waiting), bounds, after


def _read_events(systems: Systems[FlightsSettings], client: Consumer, topic: str, claims: list[Claim]) -> Events:
    events = Events()
    with closing(scan(client, topic, claims, systems.progress, "counting")) as lists:
        for messages in lists:
            for message in messages:
                events.add(message)
    return events


def _count_letters(systems: Systems[FlightsSettings], client: Consumer, route: Route, claims: list[Claim]) -> int:
    with closing(scan(client, route.dlq_topic, claims, systems.progress, "counting")) as lists:
        return sum(
            read_error(read_headers(message), "connector.name") == route.transactional_id
            for messages in lists
            for message in messages
        )


def _read_ids(session: Any, table: str) -> Iterator[bytes]:
    for row in session.execute(SimpleStatement(f"SELECT event_id FROM {table}", fetch_size=_PAGE)):  # noqa: S608
        yield row.event_id.bytes


def _read_flights(settings: FlightsSettings) -> dict[str, State]:
    """The state of each flight in MySQL."""
    with database.connect(settings, database.READER) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT flight_id, observed_at, event_id FROM flights")
        return {
            row["flight_id"]: (row["observed_at"].isoformat(timespec="microseconds") + "Z", row["event_id"])
            for row in cursor
        }


def _report(what: str, count: int) -> list[str]:
    return [f"{count:,} {what}"] if count > 0 else []
