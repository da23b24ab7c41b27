"""Load transactions from Kafka into PostgreSQL, exactly once.

One database transaction holds the rows of a chunk, its refusals, its counts and the new position in `load_offsets`.
That position decides what is loaded. The Kafka group's offsets are a copy for other tools.

producer/shop/shop_postgres.py has the same rules for rows: a transaction never changes its client, product, amount or
date, and an older status never overwrites a newer one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, product
from typing import Any

import msgspec
import psycopg

from jobs import resources
from jobs.errors import IS_IT_UP, ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.files import read_batches
from jobs.kafka.claim import Claimed, Limits, claim_after
from jobs.kafka.client import Config, translate_broker_errors
from jobs.kafka.offsets import GroupReader, read_bounds, read_topic_id
from jobs.kafka.scan import Claim
from jobs.kafka.staged import Chunk, Manifest
from jobs.parallel import prefetch
from jobs.shop.contract import Reason
from jobs.shop.database import LOADER, connect
from jobs.shop.rows import Refusal, Rows, make_rows
from jobs.shop.vertical import ShopSettings

log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]

_SESSION = {
    "timezone": "UTC",
    # A forgotten transaction of another user must not block all loads for ever.
    "lock_timeout": "60s",
    # A chunk fits into memory.
    "temp_buffers": "64MB",
    "work_mem": "64MB",
    # Look up the rows of a chunk by the index, instead of reading the whole table.
    "random_page_cost": "1.1",
    # The server ends the transaction of a worker that hangs, because it holds the lock of all loads.
    "idle_in_transaction_session_timeout": "60s",
}
_MAX_DETAIL = 1_000  # characters

_PREPARE = (
    """
CREATE TEMP TABLE IF NOT EXISTS incoming (
    "offset" bigint, transaction_id text, client_id integer, produit_id integer, montant numeric(12,2),
    date timestamptz, statut text, updated_at timestamptz
)
""",
    "CREATE TEMP TABLE IF NOT EXISTS known (LIKE incoming) ON COMMIT DELETE ROWS",
    # Messages of known transactions, compared with what is loaded.
    """
CREATE TEMP TABLE IF NOT EXISTS compared (
    "offset" bigint, transaction_id text, statut text, updated_at timestamptz,
    conflict text, has_status boolean, is_newer boolean
) ON COMMIT DELETE ROWS
""",
)
_COPY = """
COPY incoming ("offset", transaction_id, client_id, produit_id, montant, date, statut, updated_at) FROM STDIN
"""
# Insert the first message of each new transaction. All others go to `known`.
_INSERT = """
WITH inserted AS (
    INSERT INTO raw.transactions_raw
        (transaction_id, client_id, produit_id, montant, date, statut, updated_at, kafka_partition, kafka_offset)
    SELECT transaction_id, client_id, produit_id, montant, date, statut, updated_at, %(partition)s, "offset"
    FROM incoming ORDER BY "offset"
    ON CONFLICT (transaction_id) DO NOTHING
    RETURNING kafka_offset
)
INSERT INTO known SELECT * FROM incoming WHERE NOT EXISTS (SELECT FROM inserted WHERE kafka_offset = "offset")
"""
# Pending is older than every other status of the same moment.
_COMPARE = """
INSERT INTO compared
SELECT i."offset", i.transaction_id, i.statut, i.updated_at,
    CASE WHEN (i.client_id, i.produit_id, i.montant, i.date) <> (t.client_id, t.produit_id, t.montant, t.date)
        THEN format('transaction %%s is loaded with client_id %%s, produit_id %%s, montant %%s, date %%s',
            transaction_id, t.client_id, t.produit_id, t.montant, t.date)
    END,
    i.statut = t.statut,
    (i.updated_at, i.statut <> 'pending') > (t.updated_at, t.statut <> 'pending')
FROM known i JOIN raw.transactions_raw t USING (transaction_id)
"""
_COUNT = """
SELECT count(*) FILTER (WHERE has_status) AS repeated,
    count(*) FILTER (WHERE NOT has_status AND is_newer) AS updated,
    count(*) FILTER (WHERE NOT has_status AND NOT is_newer) AS stale
FROM compared WHERE conflict IS NULL
"""
_REFUSE = """
INSERT INTO raw.load_refusals (topic, partition, "offset", reason, detail)
SELECT %(topic)s, %(partition)s, "offset", %(reason)s, conflict FROM compared WHERE conflict IS NOT NULL
"""
# Rows of another load that came in meanwhile are compared again.
_UPDATE = """
UPDATE raw.transactions_raw t SET statut = c.statut, updated_at = c.updated_at,
    ingested_at = CASE WHEN t.statut = c.statut THEN t.ingested_at ELSE clock_timestamp() END,
    kafka_partition = %(partition)s, kafka_offset = c."offset"
FROM (
    SELECT DISTINCT ON (transaction_id) * FROM compared WHERE conflict IS NULL AND is_newer
    ORDER BY transaction_id, updated_at DESC, statut <> 'pending' DESC, "offset"
) c
WHERE t.transaction_id = c.transaction_id
    AND (c.updated_at, c.statut <> 'pending') > (t.updated_at, t.statut <> 'pending')
"""
# Loads run one after the other, so that the counts of each are exact.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('transactions_raw'))"


class Position(msgspec.Struct, frozen=True):
    """The offset of the next message to load, in the topic with this id."""

    next_offset: int
    topic_id: str


class Loaded(msgspec.Struct):
    """The number of messages by what became of them.

    Attributes:
        repeated: the transaction had this status already.
        stale: it had a newer one.
        refused: by reason.
    """

    inserted: int = 0
    updated: int = 0
    repeated: int = 0
    stale: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.inserted + self.updated + self.repeated + self.stale + self.refused.total()

    def add(self, other: Loaded) -> None:
        self.inserted += other.inserted
        self.updated += other.updated
        self.repeated += other.repeated
        self.stale += other.stale
        self.refused += other.refused


@contextmanager
def open_loader(settings: ShopSettings) -> Iterator[Connection]:
    """A connection that commits each statement, or each `transaction()`.

    Raises:
        ConfigurationError: the warehouse is not set up, or rejects the role.
        ServiceUnavailableError: the server does not answer, or the connection was lost.
    """
    where = f"{settings.shop_host}:{settings.shop_postgres_port}"
    options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    try:
        with connect(settings, LOADER, autocommit=True, options=options) as connection:
            yield connection
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.UndefinedTable,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        raise ConfigurationError(
            f"PostgreSQL at {where}: {_shorten(error)}. Create the schema with `python -m infra.postgres`."
        ) from error
    except psycopg.OperationalError as error:
        raise ServiceUnavailableError(
            f"PostgreSQL at {where}: {_shorten(error)}. The transaction is committed completely or not at all; the "
            f"next try checks. {IS_IT_UP}"
        ) from error


def _shorten(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_positions(connection: Connection, topic: str) -> dict[int, Position]:
    """The positions of the load, by partition."""
    rows = connection.execute(
        "SELECT partition, next_offset, topic_id FROM raw.load_offsets WHERE topic = %s", (topic,)
    ).fetchall()
    return {partition: Position(next_offset, topic_id) for partition, next_offset, topic_id in rows}


def claim_messages(
    config: Config, reader: GroupReader, connection: Connection, limits: Limits, wait_s: float
) -> Claimed:
    """Claim the messages that are not loaded.

    Args:
        wait_s: seconds to wait for a first message if the topic has no new one.

    Raises:
        OffsetsError: the topic was recreated, or lost messages that are not loaded.
    """
    topic, client = reader.topic, reader.consumer
    with translate_broker_errors(config, f"reading {topic}"):
        topic_id = read_topic_id(config, topic)
        positions = read_positions(connection, topic)
        check_topic_id(topic, topic_id, positions)
        bounds = read_bounds(config, client, topic, reader.partitions)
        starts = {}
        for partition, bound in bounds.items():
            position = positions.get(partition)
            if position is None:
                _begin(connection, topic, partition, Position(bound.low, topic_id))
            start = bound.low if position is None else position.next_offset
            if not bound.low <= start <= bound.end:
                left = bound.low if start < bound.low else bound.end
                raise OffsetsError(
                    f"{topic}[{partition}]: {_describe_gap(start, bound.low, bound.end)}. To continue at {left}, set "
                    "next_offset of this partition in raw.load_offsets, as shop_loader, and delete its rows from there "
                    "on in raw.load_refusals, as the owner."
                )
            starts[partition] = start
        claims, lag = claim_after(config, client, topic, starts, bounds=bounds, limits=limits, wait_s=wait_s)
    return Claimed(topic, topic_id, reader.group, tuple(claims), limits, lag)


def _begin(connection: Connection, topic: str, partition: int, position: Position) -> None:
    connection.execute(
        "INSERT INTO raw.load_offsets (topic, partition, next_offset, topic_id) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        (topic, partition, position.next_offset, position.topic_id),
    )


def _describe_gap(start: int, low: int, end: int) -> str:
    if start < low:
        return f"retention has deleted the {low - start} messages up to {low} before they were loaded"
    return f"{start} messages are loaded, but the topic ends at {end}: it lost its last messages"


def check_topic_id(topic: str, topic_id: str, positions: Mapping[int, Position]) -> None:
    """Raise OffsetsError if the positions belong to an earlier topic with the same name."""
    earlier = {position.topic_id for position in positions.values()} - {topic_id}
    if earlier:
        raise OffsetsError(
            f"{topic} was deleted and recreated since it was loaded (id {', '.join(earlier)}, now {topic_id}), or this "
            "is another cluster. To load the new one from its first message, delete the rows of this topic from "
            "raw.load_offsets, raw.load_refusals and raw.load_batches, as the owner of the schema raw, and recreate "
            "the dead-letter topic too."
        )


@resources.pause_cyclic_gc()
def load(settings: ShopSettings, manifest: Manifest) -> Loaded:
    """Load the staged messages of a claim, each chunk in one transaction. Skips what is loaded already.

    Raises:
        ConfigurationError: the warehouse is not set up, or rejects the role.
        OffsetsError: the position is before the claim, or the topic was recreated. The chunks before stay loaded.
        ServiceUnavailableError: the database does not answer.
    """
    loaded = Loaded()
    # The next chunk is copied into a temporary table over one connection, while this chunk is loaded over the other.
    with open_loader(settings) as one, open_loader(settings) as other:
        for connection, statement in product((one, other), _PREPARE):
            connection.execute(statement)
        parts = {claim.partition: claim for claim in manifest.claims}
        last = {chunk.partition: chunk for chunk in manifest.chunks}
        for (chunk, connection), rows in prefetch(_copy, zip(manifest.chunks, cycle((one, other)))):
            rest = parts[chunk.partition]
            end = rest.end if chunk is last[chunk.partition] else chunk.next
            loaded.add(load_chunk(connection, manifest, Claim(rest.partition, rest.start, end), rows))
            parts[chunk.partition] = Claim(rest.partition, end, rest.end)
        for claim in parts.values():
            if claim.start < claim.end:  # the claim has only transaction markers in this partition
                load_chunk(one, manifest, claim, Rows(0, b"", []))
    return loaded


def _copy(item: tuple[Chunk, Connection]) -> Rows:
    """Copy the rows of a chunk into the table `incoming` of the connection."""
    chunk, connection = item
    rows = _read_rows(chunk)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE incoming")
        with cursor.copy(_COPY) as copy:
            copy.write(rows.text)
    return rows


def _read_rows(chunk: Chunk) -> Rows:
    offsets: list[int] = []
    values: list[bytes | None] = []
    for batch in read_batches(chunk.url):
        offsets += batch.column("offset").to_pylist()
        values += batch.column("value").to_pylist()
    return make_rows(offsets, values)


def load_chunk(connection: Connection, manifest: Manifest, claim: Claim, rows: Rows) -> Loaded:
    """Load some offsets of a partition, and move its position to their end. The rows are in the table `incoming`."""
    loaded = Loaded()
    partition, start, end = claim.partition, claim.start, claim.end
    place = {"topic": manifest.topic, "partition": partition}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_LOCK)
        position = _lock_position(connection, manifest, partition)
        if position < start:
            raise OffsetsError(
                f"{manifest.topic}[{partition}]: messages are loaded up to {max(position, 0)}, which is before {start} "
                "where this chunk starts: the database was restored or emptied, or its position was set back. Nothing "
                "was loaded. Clear the run from ConsumeKafka on."
            )
        if position >= end:
            return loaded  # another try has loaded this chunk
        count, refusals = rows.count, rows.refusals
        if position > start and rows.count:
            count -= cursor.execute('DELETE FROM incoming WHERE "offset" < %s', (position,)).rowcount
            refusals = [refusal for refusal in refusals if refusal.offset >= position]
        known = cursor.execute(_INSERT, place).rowcount if count else 0
        loaded.inserted = count - known
        if known:
            cursor.execute(_COMPARE, place)
            loaded.repeated, loaded.updated, loaded.stale = cursor.execute(_COUNT).fetchone() or (0, 0, 0)
            conflicts = cursor.execute(_REFUSE, place | {"reason": Reason.CONFLICTING_TRANSACTION}).rowcount
            loaded.refused[Reason.CONFLICTING_TRANSACTION] += conflicts
            cursor.execute(_UPDATE, place)
        _write_refusals(cursor, place, refusals)
        loaded.refused.update(refusal.reason for refusal in refusals)
        loaded.refused += Counter()  # drops zeros
        cursor.execute(
            "INSERT INTO raw.load_batches (topic, rows, inserted, updated, repeated, stale, refused) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                manifest.topic, loaded.count, loaded.inserted, loaded.updated, loaded.repeated, loaded.stale,
                loaded.refused.total(),
            ),
        )  # fmt: skip
        cursor.execute(
            "UPDATE raw.load_offsets SET next_offset = %s WHERE topic = %s AND partition = %s", (end, *place.values())
        )
    for refusal in refusals:
        log.debug("%s[%d]@%d: %s: %s", manifest.topic, partition, refusal.offset, refusal.reason, refusal.detail)
    return loaded


def _lock_position(connection: Connection, manifest: Manifest, partition: int) -> int:
    """Lock and return the position of a partition; -1 if it is missing, so that nothing is passed over."""
    row = connection.execute(
        "SELECT next_offset, topic_id FROM raw.load_offsets WHERE topic = %s AND partition = %s FOR UPDATE",
        (manifest.topic, partition),
    ).fetchone()
    if row is None:
        return -1
    position = Position(*row)
    check_topic_id(manifest.topic, manifest.topic_id, {partition: position})
    return position.next_offset


def _write_refusals(cursor: psycopg.Cursor[Any], place: dict[str, object], refusals: list[Refusal]) -> None:
    if not refusals:
        return
    with cursor.copy('COPY raw.load_refusals (topic, partition, "offset", reason, detail) FROM STDIN') as copy:
        for refusal in refusals:
            copy.write_row((*place.values(), refusal.offset, refusal.reason, refusal.detail[:_MAX_DETAIL]))
