"""The ledger of the shop: every message and every row is in one place, counted in Kafka and in PostgreSQL.

generated = raw + shop_dlq + duplicates, and raw = fct_transactions + rejected_transactions, to the cent. The lines of
the application's log are counted in its files and in Elasticsearch (`log_ledger`).
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from decimal import Decimal
from itertools import chain
from typing import Any

import msgspec
from confluent_kafka import Message

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import is_dead_letter_of, read_error, read_headers, read_position
from jobs.kafka.offsets import SETTLE_S, HeldBack, list_held_back, list_partitions, read_bounds
from jobs.kafka.scan import claim_all, scan
from jobs.ledger import verdict
from jobs.ledger.verdict import Figure
from jobs.shop.database import READER, connect
from jobs.shop.load import Connection, read_positions
from jobs.shop.log_ledger import NO_LOGS, Logs, count_logs
from jobs.shop.vertical import LOAD_DAG, ShopSettings

Position = tuple[int, int]  # partition, offset

_MARTS = "to_regclass('marts.fct_transactions') IS NOT NULL AND to_regclass('marts.rejected_transactions') IS NOT NULL"
_COUNT_MARTS = """
WITH
built AS (
    SELECT max(finished_at - execution_time_s * interval '1 second') AS at FROM ops.dbt_results
    WHERE unique_id = 'model.shop.fct_transactions' AND status = 'success'
),
marts AS (
    SELECT transaction_id, amount, ingested_at FROM marts.fct_transactions
    UNION ALL
    SELECT transaction_id, amount, ingested_at FROM marts.rejected_transactions
),
compared AS (
    SELECT r.transaction_id AS raw_id, m.transaction_id AS mart_id, r.montant, m.amount,
        r.transaction_id IS NOT NULL AND r.ingested_at IS DISTINCT FROM m.ingested_at
            AND (built.at IS NULL OR r.ingested_at >= built.at) AS is_pending
    FROM raw.transactions_raw r FULL JOIN marts m USING (transaction_id) CROSS JOIN built
)
SELECT count(*) FILTER (WHERE is_pending) AS pending,
    count(*) FILTER (WHERE mart_id IS NULL AND NOT is_pending) AS missing,
    count(*) FILTER (WHERE raw_id IS NULL) AS unknown,
    count(mart_id) - count(DISTINCT mart_id) AS doubled,
    coalesce(sum(montant) FILTER (WHERE NOT is_pending), 0) AS raw_sum,
    coalesce(sum(amount) FILTER (WHERE NOT is_pending), 0) AS mart_sum
FROM compared
"""


class Loads(msgspec.Struct, frozen=True):
    """Sums of raw.load_batches, of Kafka's messages or of rows that came straight in."""

    rows: int
    inserted: int
    updated: int
    repeated: int
    stale: int
    refused: int

    @property
    def duplicates(self) -> int:
        return self.updated + self.repeated + self.stale


class Marts(msgspec.Struct, frozen=True):
    """Rows in the marts, and rows of raw that dbt has not seen. The sums leave out pending rows."""

    accepted: int
    rejected_by_reason: dict[str, int]
    pending: int
    missing: int
    unknown: int
    doubled: int
    raw_sum: Decimal
    mart_sum: Decimal

    @property
    def rejected(self) -> int:
        return sum(self.rejected_by_reason.values())


class Ledger(verdict.Ledger, kw_only=True):
    """Counts of messages and rows.

    Attributes:
        messages: those in the topic before the positions of the load.
        expired: those that retention has deleted since they were loaded.
        straight_in: rows that came without Kafka, by the generator or by an INSERT.
        raw: rows in raw.transactions_raw.
        refused_straight_in: rows of the generator whose transaction is known with other facts.
        duplicates: changes of status, repeats, and older statuses.
        waiting: messages that are not loaded.
        marts: None before dbt has made them.
        logs: None if there are no log files here.
    """

    messages: int
    expired: int
    straight_in: int
    raw: int
    raw_sum: Decimal
    dlq: int
    dlq_by_reason: dict[str, int]
    refused_straight_in: int
    updated: int
    repeated: int
    stale: int
    waiting: int
    unpublished: int
    marts: Marts | None
    logs: Logs | None

    @property
    def generated(self) -> int:
        return self.messages + self.expired + self.straight_in

    @property
    def duplicates(self) -> int:
        return self.updated + self.repeated + self.stale

    @property
    def is_in_progress(self) -> bool:
        is_shipping = self.logs is not None and self.logs.pending > 0
        return self.waiting + self.unpublished > 0 or self.marts is None or self.marts.pending > 0 or is_shipping

    @property
    def figures(self) -> list[Figure]:
        figures = [
            Figure("generated", self.generated, ""),
            Figure("  in the topic", self.messages, "Kafka"),
            *([Figure("  expired from the topic", self.expired, "PostgreSQL")] if self.expired else []),
            Figure("  straight in", self.straight_in, "PostgreSQL"),
            Figure("raw", self.raw, "PostgreSQL"),
            Figure("dead letters", self.dlq, "Kafka"),
            *(Figure(f"  {reason}", count, "Kafka") for reason, count in sorted(self.dlq_by_reason.items())),
            Figure("duplicates", self.duplicates, "PostgreSQL"),
            Figure("  changes of status", self.updated, "PostgreSQL"),
            Figure("  repeats", self.repeated, "PostgreSQL"),
            Figure("  older statuses", self.stale, "PostgreSQL"),
        ]
        if self.refused_straight_in:
            figures.append(Figure("refused straight in", self.refused_straight_in, "PostgreSQL"))
        figures.append(Figure("not loaded", self.waiting, "Kafka"))
        if self.unpublished:
            figures.append(Figure("dead letters to publish", self.unpublished, "PostgreSQL"))
        if self.marts is not None:
            figures += [
                Figure("fct_transactions", self.marts.accepted, "marts"),
                Figure("rejected_transactions", self.marts.rejected, "marts"),
                *(
                    Figure(f"  {reason}", count, "marts")
                    for reason, count in sorted(self.marts.rejected_by_reason.items())
                ),
                Figure("not in the marts yet", self.marts.pending, "PostgreSQL"),
            ]
        return [*figures, *(self.logs.figures if self.logs else [])]

    @property
    def notes(self) -> list[str]:
        kept = self.raw + self.dlq + self.unpublished + self.duplicates + self.refused_straight_in
        sign = "=" if self.generated == kept else "≠"
        refused = f" + refused straight in {self.refused_straight_in:,}" if self.refused_straight_in else ""
        notes = [
            f"generated {self.generated:,} {sign} raw {self.raw:,} + dead letters {self.dlq + self.unpublished:,} + "
            f"duplicates {self.duplicates:,}{refused}"
        ]
        log_note = self.logs.note if self.logs else NO_LOGS
        if self.marts is None:
            return [*notes, "There are no marts yet: run dbt_transform.", log_note]
        marts = self.marts
        sign = "=" if self.raw - marts.pending == marts.accepted + marts.rejected else "≠"
        notes.append(
            f"raw {self.raw:,} − pending {marts.pending:,} {sign} fct_transactions {marts.accepted:,} + "
            f"rejected_transactions {marts.rejected:,}"
        )
        sign = "=" if marts.raw_sum == marts.mart_sum else "≠"
        return [*notes, f"amounts: raw {marts.raw_sum:,} {sign} marts {marts.mart_sum:,}", log_note]


class Database(msgspec.Struct, frozen=True):
    """What the database holds at one moment.

    Attributes:
        positions: offset of the next message to load, by partition.
        refusals: positions of the messages that were not loaded.
        refused_straight_in: refused rows with their reason.
    """

    positions: dict[int, int]
    refusals: set[Position]
    refused_straight_in: int
    by_kafka: Loads
    straight_in: Loads
    raw: int
    raw_sum: Decimal
    marts: Marts | None


class Kafka(msgspec.Struct, frozen=True):
    """What the topics hold: positions of messages, and dead letters with their reason."""

    messages: set[Position]
    letters: list[tuple[Position, str]]
    held_back: list[HeldBack]
    has_expired: bool
    letters_have_expired: bool


def take_ledger(systems: Systems[ShopSettings]) -> Ledger:
    """Count the shop's messages and rows."""
    settings = systems.settings
    with connect(settings, READER) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        database = _count_database(connection, settings.shop_topic)
    # After the database, so that Kafka has at least what the database knows.
    return _compare(database, _count_kafka(systems), count_logs(systems))


def _count_database(connection: Connection, topic: str) -> Database:
    positions = {partition: position.next_offset for partition, position in read_positions(connection, topic).items()}
    ((raw, raw_sum),) = connection.execute("SELECT count(*), coalesce(sum(montant), 0) FROM raw.transactions_raw")
    refusals = connection.execute('SELECT partition, "offset" FROM raw.load_refusals WHERE topic = %s', (topic,))
    ((straight_in,),) = connection.execute("SELECT count(*) FROM raw.load_refusals WHERE topic IS NULL")
    return Database(
        positions=positions,
        refusals=set(refusals.fetchall()),
        refused_straight_in=straight_in,
        by_kafka=_sum_batches(connection, "topic = %s", topic),
        straight_in=_sum_batches(connection, "topic IS NULL"),
        raw=raw,
        raw_sum=raw_sum,
        marts=_count_marts(connection),
    )


def _count_kafka(systems: Systems[ShopSettings]) -> Kafka:
    config, topic, dlq_topic = systems.config, systems.settings.shop_topic, systems.settings.shop_dlq_topic
    with translate_broker_errors(config, f"counting {topic}"), open_consumer(config, "shop-ledger") as client:
        bounds = read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S)
        dlq_bounds = read_bounds(config, client, dlq_topic, list_partitions(client, dlq_topic), settle_s=SETTLE_S)
        with closing(scan(client, topic, claim_all(bounds), systems.progress)) as lists:
            messages = {(message.partition(), message.offset()) for messages in lists for message in messages}
        with closing(scan(client, dlq_topic, claim_all(dlq_bounds), systems.progress)) as lists:
            letters = [
                _read_letter(message)
                for message in chain.from_iterable(lists)
                if is_dead_letter_of(read_headers(message), topic, LOAD_DAG)
            ]
    return Kafka(
        messages,
        letters,
        held_back=[*list_held_back(topic, bounds), *list_held_back(dlq_topic, dlq_bounds)],
        has_expired=any(bound.low for bound in bounds.values()),
        letters_have_expired=any(bound.low for bound in dlq_bounds.values()),
    )


def _compare(database: Database, kafka: Kafka, logs: Logs | None) -> Ledger:
    positions, by_kafka, straight_in, marts = (
        database.positions, database.by_kafka, database.straight_in, database.marts,
    )  # fmt: skip
    loaded = sum(offset < positions.get(partition, 0) for partition, offset in kafka.messages)
    expired = by_kafka.rows - loaded  # retention has deleted them
    # Leave out those that were published after the database was counted.
    letters = [
        ((partition, offset), reason)
        for (partition, offset), reason in kafka.letters
        if offset < positions.get(partition, 0)
    ]
    published = Counter(position for position, _ in letters)
    unpublished = len(database.refusals - published.keys())
    expired_letters = unpublished if kafka.letters_have_expired else 0
    by_insert = database.raw - by_kafka.inserted - straight_in.inserted  # rows that no load has written
    twice = sum(count > 1 for count in published.values())
    faults = [
        *_report("loaded messages are not in the topic", 0 if kafka.has_expired else expired),
        *_report("messages of the topic were passed over", -expired),
        *_report("inserted rows are not in raw.transactions_raw", -by_insert),
        *_report("refused rows have no reason", straight_in.refused - database.refused_straight_in),
        *_report("dead letters are of messages that were not refused", len(published.keys() - database.refusals)),
        *_report("messages have two dead letters", twice),
    ]
    if marts is not None:
        faults += [
            *_report("rows of raw are in no mart", marts.missing),
            *_report("rows of the marts are not in raw", marts.unknown),
            *_report("transactions are twice in the marts", marts.doubled),
        ]
        if marts.raw_sum != marts.mart_sum:
            faults.append(f"the amounts differ: raw {marts.raw_sum:,}, marts {marts.mart_sum:,}")
    if logs is not None:
        faults += [
            *_report("log lines are not in Elasticsearch", logs.lost),
            *_report("log lines are accepted and rejected", logs.doubled),
        ]
    return Ledger(
        balanced=not faults,
        faults=faults,
        lost=max(0, -expired) + max(0, -by_insert) + (marts.missing if marts else 0) + (logs.lost if logs else 0),
        doubled=twice + (marts.doubled if marts else 0) + (logs.doubled if logs else 0),
        held_back=kafka.held_back,
        messages=loaded,
        expired=max(0, expired),
        straight_in=straight_in.rows + max(0, by_insert),
        raw=database.raw,
        raw_sum=database.raw_sum,
        dlq=len(published) + expired_letters,
        dlq_by_reason=dict(Counter(dict(letters).values())),
        refused_straight_in=straight_in.refused,
        updated=by_kafka.updated + straight_in.updated,
        repeated=by_kafka.repeated + straight_in.repeated,
        stale=by_kafka.stale + straight_in.stale,
        waiting=len(kafka.messages) - loaded,
        unpublished=unpublished - expired_letters,
        marts=marts,
        logs=logs,
    )


def _report(what: str, count: int) -> list[str]:
    return [f"{count:,} {what}"] if count > 0 else []


def _read_letter(message: Message) -> tuple[Position, str]:
    headers = read_headers(message)
    return read_position(headers) or (-1, message.offset()), read_error(headers, "exception.class.name")


def _sum_batches(database: Connection, condition: str, *arguments: Any) -> Loads:
    names = Loads.__struct_fields__
    sums = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in names)
    ((*counts,),) = database.execute(f"SELECT {sums} FROM raw.load_batches WHERE {condition}", arguments)  # noqa: S608
    return Loads(*counts)


def _count_marts(database: Connection) -> Marts | None:
    """The counts of the marts; None if dbt has not made them."""
    ((exist,),) = database.execute(f"SELECT {_MARTS}")
    if not exist:
        return None
    ((accepted,),) = database.execute("SELECT count(*) FROM marts.fct_transactions")
    by_reason = database.execute("SELECT reject_reason, count(*) FROM marts.rejected_transactions GROUP BY 1")
    rejected = {str(reason): count for reason, count in by_reason}
    ((pending, missing, unknown, doubled, raw_sum, mart_sum),) = database.execute(_COUNT_MARTS)
    return Marts(accepted, rejected, pending, missing, unknown, doubled, raw_sum, mart_sum)
