"""Publish the refusals of the load as dead letters, and let the Kafka group follow the database.

The database has decided before. A crash between its commit and this transaction is repaired by the next run.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain, repeat

import msgspec
from confluent_kafka import Consumer, Message

from jobs.kafka.client import Config, translate_broker_errors
from jobs.kafka.dead_letter import Origin, is_dead_letter_of, read_headers, read_position
from jobs.kafka.offsets import SETTLE_S, GroupReader, list_partitions, open_group_reader, read_bounds, read_topic_id
from jobs.kafka.publish import PIECE_RECORDS, send_dead_letters
from jobs.kafka.scan import Claim, claim_all, scan
from jobs.kafka.staged import make_message_batch, make_outcome_batch
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.settings import check_distinct
from jobs.shop.load import Connection, Position, check_topic_id, read_positions

log = logging.getLogger(__name__)

# The task that refuses messages, and its stage in the terms of Kafka Connect, for the headers of dead letters.
TASK_ID, STAGE = "LoadTransactions", "TASK_PUT"

Reasons = dict[tuple[int, int], tuple[str, str]]  # partition, offset: reason, detail


class Followed(msgspec.Struct):
    """What was published: dead letters by reason, and the offsets that the group has now."""

    refused: Counter[str] = msgspec.field(default_factory=Counter)
    offsets: dict[int, int] = msgspec.field(default_factory=dict)


def is_behind(config: Config, reader: GroupReader, connection: Connection) -> bool:
    """Whether the group's offsets are not those of the database: a run was killed, or someone has reset the group."""
    with translate_broker_errors(config, f"reading the offsets of {reader.group}"):
        positions = read_positions(connection, reader.topic)
        check_topic_id(reader.topic, read_topic_id(config, reader.topic), positions)
        published = _read_published(reader, positions)
        own = {partition: committed.offset for partition, committed in reader.read_unchecked().items()}
        wanted = _choose_offsets(positions, published)
    return any(own.get(partition) != offset or published[partition] != offset for partition, offset in wanted.items())


def publish_refusals(
    config: Config,
    connection: Connection,
    *,
    topic: str,
    group: str,
    dlq_topic: str,
    dag_id: str,
    is_repair: bool = False,
) -> Followed:
    """Publish the refusals that are not published yet, and commit the database's positions, in one transaction.

    The group's copy (`jobs.kafka.offsets.name_kept_group`) says up to where dead letters are published. It never goes
    back: after a restore of the database, the messages that are loaded again have their dead letters already.

    Args:
        is_repair: do not trust the copy, and look for existing dead letters in their topic.

    Raises:
        ConfigurationError: one of the topics does not exist.
        OffsetsError: the topic was recreated.
        ServiceUnavailableError: a broker is down, or a newer worker has taken over; nothing was committed.
    """
    check_distinct(topic, dlq_topic)
    followed = Followed()
    # Read before older workers are fenced, so it does not wait for their transactions, and only estimates.
    with translate_broker_errors(config, f"reading the offsets of {group}"):
        with open_group_reader(config, topic, group, isolation="read_uncommitted") as reader:
            published = _read_published(reader, read_positions(connection, topic))
        count = len(_read_refusals(connection, topic, published))
    # All are in one transaction. After a kill, the group waits until it times out.
    timeout_s = min(20 + count // 5_000, 900)
    with open_group_writer(config, group, topic, PIECE_RECORDS, transaction_timeout_s=timeout_s) as writer:
        writer.check_topics(dlq_topic)
        # Read after older workers are fenced.
        positions = read_positions(connection, topic)
        if not positions:
            return followed
        check_topic_id(topic, writer.topic_id, positions)
        published = _read_published(writer.reader, positions)
        reasons = {
            (partition, offset): reason
            for (partition, offset), reason in _read_refusals(connection, topic, published).items()
            # Another load may have committed since the positions were read; the next run publishes its refusals.
            if offset < positions[partition].next_offset
        }
        if reasons and (is_repair or all(offset is None for offset in published.values())):
            for position in _scan_dead_letters(config, writer.reader.consumer, dlq_topic, topic, dag_id):
                reasons.pop(position, None)
        followed.offsets = _choose_offsets(positions, published)
        with writer.transaction(followed.offsets):
            for messages in _scan_refused(config, writer.reader, reasons):
                _send(writer, messages, reasons, dlq_topic, dag_id)
                followed.refused.update(reasons[_locate(message)][0] for message in messages)
    if missing := len(reasons) - followed.refused.total():
        log.warning("Retention has deleted %d refused messages of %s before they were published", missing, topic)
    return followed


def _read_published(reader: GroupReader, positions: Mapping[int, Position]) -> dict[int, int | None]:
    """Up to where dead letters are published, by partition that is loaded; None if it is not known."""
    kept = reader.read_kept()
    return {
        partition: kept[partition].offset if kept[partition].topic_id == position.topic_id else None
        for partition, position in positions.items()
    }


def _choose_offsets(positions: Mapping[int, Position], published: Mapping[int, int | None]) -> dict[int, int]:
    return {
        partition: max(position.next_offset, published[partition] or 0) for partition, position in positions.items()
    }


def _read_refusals(connection: Connection, topic: str, published: Mapping[int, int | None]) -> Reasons:
    reasons: Reasons = {}
    for partition, offset in published.items():
        rows = connection.execute(
            'SELECT "offset", reason, detail FROM raw.load_refusals '
            'WHERE topic = %s AND partition = %s AND "offset" >= %s',
            (topic, partition, offset or 0),
        )
        reasons |= {(partition, number): (reason, detail) for number, reason, detail in rows}
    return reasons


def _scan_refused(config: Config, reader: GroupReader, reasons: Reasons) -> Iterator[list[Message]]:
    """Read the refused messages from the topic, in pieces. The staged files may be gone."""
    if not reasons:
        return
    by_partition: dict[int, list[int]] = {}
    for partition, offset in reasons:
        by_partition.setdefault(partition, []).append(offset)
    bounds = read_bounds(config, reader.consumer, reader.topic, list(by_partition))
    claims = [
        Claim(partition, max(min(offsets), bounds[partition].low), max(offsets) + 1)
        for partition, offsets in by_partition.items()
    ]
    with closing(scan(reader.consumer, reader.topic, claims)) as lists:
        for messages in lists:
            refused = [message for message in messages if _locate(message) in reasons]
            for start in range(0, len(refused), PIECE_RECORDS):
                yield refused[start : start + PIECE_RECORDS]


def _scan_dead_letters(
    config: Config, client: Consumer, dlq_topic: str, topic: str, dag_id: str
) -> Iterator[tuple[int, int]]:
    """The positions of the messages whose dead letters exist."""
    bounds = read_bounds(config, client, dlq_topic, list_partitions(client, dlq_topic), settle_s=SETTLE_S)
    with closing(scan(client, dlq_topic, claim_all(bounds))) as lists:
        for message in chain.from_iterable(lists):
            headers = read_headers(message)
            if is_dead_letter_of(headers, topic, dag_id) and (position := read_position(headers)):
                yield position


def _send(writer: GroupWriter, messages: list[Message], reasons: Reasons, dlq_topic: str, dag_id: str) -> None:
    found = [reasons[_locate(message)] for message in messages]
    rejects = make_outcome_batch(
        make_message_batch(messages), reasons=[reason for reason, _ in found], texts=[detail for _, detail in found]
    )
    origin = Origin(writer.topic, messages[0].partition(), dag_id, TASK_ID, STAGE)
    send_dead_letters(writer, dlq_topic, rejects, repeat(origin, len(messages)))
    writer.free_delivered()


def _locate(message: Message) -> tuple[int, int]:
    return message.partition(), message.offset()
