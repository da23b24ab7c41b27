"""Tickets, and outputs as the processor writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.tickets.outputs import Format, Run, replace_output

HEADLINES = ("billing", "technical", "account", "general")


def ticket(**changes: Any) -> dict[str, Any]:
    """A valid ticket with a new id."""
    return {
        "ticket_id": str(uuid4()),
        "client_id": "CLIENT_5234",
        "created_at": "2026-01-05T08:15:30.123456Z",
        "request": "Unable to reset password",
        "request_type": "account",
        "priority": "high",
    } | changes


def make_run(name: str) -> Run:
    return Run(name, "batch", "client_tickets", {0: 3}, "2026-01-05T08:16:00Z")


def write_output(
    folder: Path, name: str, rows: list[dict[str, Any]], fmt: Format = "parquet", run: str = "one"
) -> None:
    """Write an output as the processor does."""
    staging = folder / ".staging" / uuid4().hex
    staging.mkdir(parents=True)
    part = staging / f"part-00000-{uuid4()}.{fmt}"
    if fmt == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), part)
    else:
        part.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    replace_output(staging, folder / name, fmt, make_run(run))


def write_outputs(folder: Path, fmt: Format = "parquet", run: str = "one") -> None:
    """Write all outputs of two tickets, a high one and a low one, and one reject."""
    tickets = [
        {
            **ticket(ticket_id=f"00000000-0000-4000-8000-00000000000{offset}", priority=priority),
            "created_at": f"2026-01-05T08:15:3{offset}.000000Z",
            "assigned_team": "Account Management",
            "kafka_partition": 0,
            "kafka_offset": offset,
        }
        for offset, priority in enumerate(("high", "low"))
    ]
    reject = {
        "topic": "client_tickets",
        "partition": 0,
        "offset": 2,
        "timestamp": "2026-01-05T08:15:40.000000Z",
        "reason": "invalid_json",
        "detail": "not <JSON>",
        "ticket_id": None,
        "text": "{",
    }
    by_type = {"account": 2, "billing": 0, "general": 0, "technical": 0}
    by_priority = {"high": 1, "low": 1, "critical": 0, "medium": 0}
    metrics = {f"{kind}_count": by_type[kind] for kind in HEADLINES}
    rows: dict[str, list[dict[str, Any]]] = {
        "tickets_with_assignment": tickets,
        "high_priority_tickets": tickets[:1],
        "rejects": [reject],
        "tickets_by_type": [{"request_type": kind, "count": count} for kind, count in by_type.items()],
        "tickets_by_priority": [{"priority": name, "count": count} for name, count in by_priority.items()],
        "metrics": [{"total_tickets": 2, **metrics, "critical_priority_count": 0, "unique_clients": 1}],
    }
    for name, content in rows.items():
        write_output(folder, name, content, fmt, run)
