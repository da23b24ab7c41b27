"""Parse Kafka messages by the contract, in Arrow batches. Runs in Spark's Python workers."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from jobs.strict_json import RejectedError
from jobs.tickets.contract import Ticket, parse_ticket

TIME = pa.timestamp("us", "UTC")
# What parsing adds to a message: the ticket; or a reason, a text for people, and the message as text.
ADDED = pa.schema(
    [
        ("ticket_id", pa.string()),
        ("client_id", pa.string()),
        ("created_at", TIME),
        ("request", pa.string()),
        ("request_type", pa.string()),
        ("priority", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("text", pa.string()),
    ]
)
_NO_TICKET = Ticket._make([None] * len(Ticket._fields))


def parse_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Add the columns of ADDED to messages with at least a column `value`."""
    for batch in batches:
        rows = [_parse(value) for value in batch["value"].to_pylist()]
        columns = [pa.array([row[number] for row in rows], field.type) for number, field in enumerate(ADDED)]
        yield pa.RecordBatch.from_arrays([*batch.columns, *columns], names=[*batch.schema.names, *ADDED.names])


def _parse(value: bytes | None) -> tuple[object, ...]:
    try:
        return (*parse_ticket(value), None, None, None)
    except RejectedError as error:
        text = None if value is None else value.decode("utf-8", "replace")
        return (*_NO_TICKET, str(error.reason), str(error), text)
