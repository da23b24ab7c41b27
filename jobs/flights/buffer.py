"""The buffer between the collectors and the relay: a Redis stream for each kind of observation.

An entry is in the stream from the moment it is collected until it is relayed. An input that was collected within the
last six hours is only counted. The counts are made together with the entries, so that the ledger can compare them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.contract import Collected, Flight, Kind, Origin, Reject
from jobs.flights.vertical import START, FlightsSettings

# A repeat is noticed for at least this many hours, and for twice as many at most. An id takes 42 bytes (measured).
_HOURS = 6
_BATCH = 500  # inputs in one round trip
_TIMEOUT_S = 10
_SCRIPT = Path(__file__).with_name("buffer.lua").read_text(encoding="utf-8")

FIRST = "0-0"  # before the first entry of a stream


class Added(msgspec.Struct):
    """What became of inputs: new observations, rejects, and repeats of either."""

    observed: int = 0
    rejected: int = 0
    repeated: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)

    def count(self, other: Added) -> None:
        """Add the counts of another."""
        self.observed += other.observed
        self.rejected += other.rejected
        self.repeated += other.repeated
        self.reasons.update(other.reasons)


class Entry(msgspec.Struct, frozen=True):
    """An entry of a stream. A reject has a reason.

    Attributes:
        id: of the stream: milliseconds and a number.
        value: an observation as JSON, or the unchanged input of a reject.
    """

    id: str
    key: bytes
    value: bytes
    source: str
    position: str
    fetched_at: str
    reason: str = ""
    detail: str = ""


_TEXTS = ("source", "position", "fetched_at", "reason", "detail")


class Counts(msgspec.Struct, frozen=True):
    """The counts of one kind since its buffer exists, by source.

    Attributes:
        buffer: the identity of the buffer; "" before the first input.
    """

    buffer: str
    collected: dict[str, int]
    observed: dict[str, int]
    rejected: dict[str, int]
    repeated: dict[str, int]

    @property
    def added(self) -> int:
        """Entries that were added to the stream."""
        return sum(self.observed.values()) + sum(self.rejected.values())


class Buffer:
    """The streams of one Redis server. Created by `open_buffer`."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._add = client.register_script(_SCRIPT)

    def add(self, inputs: Iterable[Collected]) -> Added:
        """Add inputs in their order. What this returns is safe: Redis has written it to its disk.

        Inputs that were added before an error stay; adding them again only counts repeats.
        """
        added = Added()
        remaining = iter(inputs)
        while batch := list(islice(remaining, _BATCH)):
            pipeline = self._client.pipeline(transaction=False)
            for it in batch:
                self._add(*_encode(it), client=pipeline)
            for it, is_new in zip(batch, pipeline.execute(), strict=True):
                if not is_new:
                    added.repeated += 1
                elif isinstance(it, Reject):
                    added.rejected += 1
                    added.reasons[it.reason] += 1
                else:
                    added.observed += 1
        return added

    def read(self, kind: Kind, after: str, count: int, wait_s: float = 0) -> list[Entry]:
        """The next entries after an id, oldest first.

        Args:
            wait_s: how long to wait if there is none; 0 does not wait.
        """
        block = round(wait_s * 1000) or None
        found: Any = self._client.xread({name_stream(kind): after}, count=count, block=block)
        return [_decode(entry_id, fields) for _, entries in found or () for entry_id, fields in entries]

    def trim(self, kind: Kind, until: str) -> None:
        """Delete the entries up to an id, which the relay has committed."""
        milliseconds, number = until.split("-")
        minimum = f"{milliseconds}-{int(number) + 1}"
        self._client.xtrim(name_stream(kind), minid=minimum, approximate=False)

    def count_after(self, kind: Kind, buffer: str, entry: str) -> tuple[Counts, int, float | None]:
        """The counts, the number of entries after one, and the time of the first of these, all of one moment.

        Args:
            buffer: identity of the buffer that had this entry. All entries of another buffer are after it.
            entry: id of the entry.

        Returns:
            the time in seconds since 1970; None without entries.
        """
        start = entry if self.read_identity(kind) in ("", buffer) else FIRST
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hgetall(f"counts:{kind}")
        pipeline.xlen(name_stream(kind))
        # Those are there only between the relay's commit and its trim.
        pipeline.xrange(name_stream(kind), "-", start)
        pipeline.xrange(name_stream(kind), f"({start}", "+", count=1)
        fields, total, passed, first = pipeline.execute()
        oldest = int(first[0][0].split(b"-")[0]) / 1000 if first else None
        return _decode_counts(fields), total - len(passed), oldest

    def read_identity(self, kind: Kind) -> str:
        """The identity of the buffer, which changes if Redis loses its data; "" before the first input."""
        return (self._client.hget(f"counts:{kind}", "buffer") or b"").decode()  # type: ignore[union-attr]


def name_stream(kind: Kind) -> str:
    """The name of a kind's stream."""
    return f"buffer:{kind}"


@contextmanager
def open_buffer(settings: FlightsSettings) -> Iterator[Buffer]:
    """The buffer of these settings.

    Raises:
        ConfigurationError: Redis rejects the password.
        ServiceUnavailableError: Redis does not answer, is full, or the connection breaks inside. It is safe to try
            again.
    """
    address = f"{settings.flights_redis}:{settings.flights_redis_port}"
    client = redis.Redis(
        host=settings.flights_redis,
        port=settings.flights_redis_port,
        password=settings.flights_redis_password,
        socket_connect_timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        # The shape of some answers depends on it.
        protocol=2,
        # A command that was sent may have worked; what calls this may repeat it and counts repeats.
        retry=Retry(NoBackoff(), 0),
    )
    try:
        with client:
            yield Buffer(client)
    except redis.AuthenticationError as error:
        raise ConfigurationError(
            f"Redis at {address} rejects the password: {error}. Set FLIGHTS_REDIS_PASSWORD in .env to the server's."
        ) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise ServiceUnavailableError(
            f"The buffer in Redis at {address} is full: {error}. Nothing that was added is lost. Either entries wait "
            "for the relay (`make flights-ledger`; is it running?), or too many inputs came within twelve hours: raise "
            "maxmemory in infra/redis/redis.conf."
        ) from error
    except redis.RedisError as error:
        raise ServiceUnavailableError(f"Redis at {address} does not answer: {error}. {START}") from error


def _encode(it: Collected) -> tuple[list[str], list[Any]]:
    """The keys and the arguments of the script."""
    kind = it.kind if isinstance(it, Reject) else Kind.FLIGHT if isinstance(it, Flight) else Kind.WEATHER
    keys = [name_stream(kind), f"known:{kind}:", f"counts:{kind}"]
    if isinstance(it, Reject):
        origin, what = it.origin, "rejected"
        fields: Mapping[str, Any] = {"key": b"", "value": it.value, "reason": it.reason, "detail": it.detail}
    else:
        origin, what = Origin(it.source, it.position, it.fetched_at), "observed"
        fields = {"key": it.key, "value": msgspec.json.encode(it)}
    fields = {**fields, **msgspec.structs.asdict(origin)}
    members = [part for pair in fields.items() for part in pair]
    return keys, [UUID(it.event_id).bytes, _HOURS, origin.source, what, *members]


def _decode(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    """An entry, also if a collector of another version has added it."""
    texts = {name: fields.get(name.encode(), b"").decode("utf-8", "replace") for name in _TEXTS}
    return Entry(entry_id.decode(), fields.get(b"key", b""), fields.get(b"value", b""), **texts)


def _decode_counts(fields: Mapping[bytes, bytes]) -> Counts:
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    numbers: dict[str, dict[str, int]] = {name: {} for name in ("collected", "observed", "rejected", "repeated")}
    for name, text in texts.items():
        what, _, source = name.partition(" ")
        if source:
            numbers[what][source] = int(text)
    return Counts(texts.get("buffer", ""), **numbers)
