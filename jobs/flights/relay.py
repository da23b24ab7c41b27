"""The relay: moves observations from the buffer into the stores and to Kafka, exactly once.

For each batch, in this order:

1. write the stores, which do not mind repeats;
2. in one Kafka transaction, send the observations, the rejects, and the position in the buffer;
3. delete the relayed entries from the buffer.

A relay that is killed anywhere is followed by one that reads the position and repeats at most the writes of the stores.
A second relay fences the first by the transactional id. The position is a record and not a group's offset, which would
count the positions' own records as backlog.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from confluent_kafka import Consumer

from jobs.clients import make_kafka_config
from jobs.errors import ServiceUnavailableError
from jobs.flights.buffer import FIRST, Buffer, Entry, name_stream
from jobs.flights.contract import MAX_DETAIL, Flight, Kind, Observation, Reason, Weather
from jobs.flights.stores import Store
from jobs.flights.vertical import FlightsSettings
from jobs.kafka.client import Config, open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import MESSAGE, OFFSET, REASON, Origin
from jobs.kafka.offsets import list_partitions, read_bounds
from jobs.kafka.scan import Claim, scan
from jobs.kafka.transaction import Writer, open_writer

log = logging.getLogger(__name__)

BATCH = 500  # entries in one transaction
WAIT_S = 0.25  # for entries of one kind
POSITION_HEADER = "datastream.position"
SETTLE_S = 30.0  # longer than a killed relay's transaction stays open
FETCHED_HEADER = "datastream.fetched_at"
# The task of the source, in the terms of Kafka Connect.
STAGE = "TASK_POLL"
_TYPES: dict[Kind, type[Flight] | type[Weather]] = {Kind.FLIGHT: Flight, Kind.WEATHER: Weather}


class Position(msgspec.Struct, frozen=True):
    """How far a kind is relayed: the value of a record on `flights_positions`.

    Attributes:
        buffer: the identity of the buffer. Another one starts at its beginning.
        entry: id of the last relayed entry.
        relayed, rejected: entries that were relayed to the topic and to the dead letters.
        earlier: how many of them came from earlier buffers.
    """

    buffer: str = ""
    entry: str = FIRST
    relayed: int = 0
    rejected: int = 0
    earlier: int = 0

    @property
    def from_buffer(self) -> int:
        """The entries of this buffer that were relayed."""
        return self.relayed + self.rejected - self.earlier


class Route(msgspec.Struct, frozen=True):
    """The topics of one kind."""

    kind: Kind
    topic: str
    dlq_topic: str
    positions_topic: str

    @property
    def transactional_id(self) -> str:
        return f"relay.{self.topic}"


def list_routes(settings: FlightsSettings) -> list[Route]:
    """The route of each kind."""
    topics = {Kind.FLIGHT: settings.flights_topic, Kind.WEATHER: settings.flights_weather_topic}
    return [
        Route(kind, topic, settings.flights_dlq_topic, settings.flights_positions_topic)
        for kind, topic in topics.items()
    ]


class Relay:
    """Relays one kind. Made after older relays were fenced.

    Args:
        position: the committed one, read after that.
    """

    def __init__(
        self, route: Route, buffer: Buffer, stores: Sequence[Store], writer: Writer, position: Position
    ) -> None:
        self.route = route
        self._buffer = buffer
        self._stores = stores
        self._writer = writer
        self.position = position

    def resume(self) -> None:
        """Delete what an earlier relay has committed but not deleted."""
        self._follow_buffer()
        if self.position.entry != FIRST:
            self._buffer.trim(self.route.kind, self.position.entry)

    def _follow_buffer(self) -> bool:
        """Start at the beginning of a buffer that has taken the place of the last one; returns whether it has."""
        identity = self._buffer.read_identity(self.route.kind)
        if identity in ("", self.position.buffer):
            return False
        if self.position.buffer:
            log.warning("Redis has lost its data since %s: starting with a new buffer", self.position.entry)
        done = self.position.relayed + self.position.rejected
        self.position = msgspec.structs.replace(self.position, buffer=identity, entry=FIRST, earlier=done)
        return True

    def relay(self, wait_s: float = WAIT_S) -> int:
        """Relay the next entries; returns their number.

        Raises:
            FencedError: another relay has taken over.
            ServiceUnavailableError: a service does not answer. What is committed stays.
        """
        entries = self._buffer.read(self.route.kind, self.position.entry, BATCH, wait_s)
        # Also without entries: those of a new buffer whose clock is behind have lower ids.
        if self._follow_buffer():
            entries = self._buffer.read(self.route.kind, self.position.entry, BATCH)
        if not entries:
            return 0
        observations, decoded, rejects = self._sort(entries)
        for store in self._stores:
            store.write(decoded)
        position = msgspec.structs.replace(
            self.position,
            entry=entries[-1].id,
            relayed=self.position.relayed + len(observations),
            rejected=self.position.rejected + len(rejects),
        )
        with self._writer.transaction():
            for entry in observations:
                self._writer.send(self.route.topic, entry.key, entry.value, [])
            for entry in rejects:
                self._send_reject(entry)
            key = name_stream(self.route.kind).encode()
            self._writer.send(self.route.positions_topic, key, msgspec.json.encode(position), [])
        self.position = position
        self._writer.free_delivered()
        self._buffer.trim(self.route.kind, position.entry)
        log.info(
            "Relayed %d of %s up to %s: %d to %s, %d rejects", len(entries), name_stream(self.route.kind),
            position.entry, len(observations), self.route.topic, len(rejects),
        )  # fmt: skip
        return len(entries)

    def _sort(self, entries: list[Entry]) -> tuple[list[Entry], list[Observation], list[Entry]]:
        """The observations among entries, the same decoded, and the rejects."""
        observations: list[Entry] = []
        decoded: list[Observation] = []
        rejects: list[Entry] = []
        for entry in entries:
            if entry.reason:
                rejects.append(entry)
                continue
            try:
                decoded.append(msgspec.json.decode(entry.value, type=_TYPES[self.route.kind]))
                observations.append(entry)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                # A collector of another version has added it. It must not hold up what comes after it.
                detail = str(error)[:MAX_DETAIL]
                rejects.append(msgspec.structs.replace(entry, reason=Reason.INVALID_MESSAGE, detail=detail))
        return observations, decoded, rejects

    def _send_reject(self, entry: Entry) -> None:
        origin = Origin(
            name_stream(self.route.kind), 0, dag_id=self.route.transactional_id, task_id=entry.source, stage=STAGE
        )
        texts = {
            OFFSET: entry.id,
            REASON: entry.reason,
            MESSAGE: entry.detail,
            POSITION_HEADER: entry.position,
            FETCHED_HEADER: entry.fetched_at,
        }
        headers = [*origin.headers, *((name, text.encode()) for name, text in texts.items())]
        self._writer.send(self.route.dlq_topic, None, entry.value, headers)


@contextmanager
def open_relay(settings: FlightsSettings, route: Route, buffer: Buffer, stores: Sequence[Store]) -> Iterator[Relay]:
    """Fence every older relay of this route, then continue where it ended.

    Raises:
        ConfigurationError: a topic does not exist.
        ServiceUnavailableError: a service does not answer.
    """
    config = make_kafka_config(settings)
    with open_writer(config, route.transactional_id, BATCH) as writer:
        reading = translate_broker_errors(config, "reading the position of the relay")
        with reading, open_consumer(config, "relay") as client:
            for topic in (route.topic, route.dlq_topic):
                list_partitions(client, topic)  # raises ConfigurationError if it does not exist
            position = read_position(config, client, route, settle_s=SETTLE_S, is_exact=True)
        relay = Relay(route, buffer, stores, writer, position)
        relay.resume()
        yield relay


def read_position(
    config: Config, client: Consumer, route: Route, *, settle_s: float = 0, is_exact: bool = False
) -> Position:
    """The last committed position; the first one if there is none.

    Args:
        settle_s: seconds to wait for the end of the transactions that are open now.
        is_exact: raise an error if one is still open, because it hides what is behind it.

    Raises:
        ConfigurationError: the topic does not exist.
        ServiceUnavailableError: a transaction is still open.
    """
    key = name_stream(route.kind).encode()
    (bound,) = read_bounds(config, client, route.positions_topic, [0], settle_s=settle_s).values()
    if is_exact and bound.held:
        raise ServiceUnavailableError(
            f"A transaction of another relay is open on {route.positions_topic}. It ends within a minute; the relay "
            "tries again."
        )
    # Compaction keeps the topic short in the end, not at once: start with its newest records.
    span, end = 1_000, bound.end
    while end > bound.low:
        start = max(bound.low, bound.end - span)
        found = [
            message
            for messages in scan(client, route.positions_topic, [Claim(0, start, end)])
            for message in messages
            if message.key() == key
        ]
        if found:
            return msgspec.json.decode(found[-1].value() or b"", type=Position)
        span, end = span * 8, start
    return Position()
