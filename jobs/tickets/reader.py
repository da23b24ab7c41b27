"""Read the outputs, Parquet or JSON, into DuckDB."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from jobs.tickets.contract import TEAMS
from jobs.tickets.outputs import NAMES, Format, Run, read_output

_TICKET = {
    "ticket_id": "VARCHAR",
    "client_id": "VARCHAR",
    "created_at": "TIMESTAMP",
    "request": "VARCHAR",
    "request_type": "VARCHAR",
    "priority": "VARCHAR",
    "assigned_team": "VARCHAR",
    "kafka_partition": "INTEGER",
    "kafka_offset": "BIGINT",
}
# The columns to read, with the types that JSON does not have. Times are in UTC: DuckDB's type with a time zone needs an
# extension, which it would download.
COLUMNS: dict[str, dict[str, str]] = {
    "tickets_with_assignment": _TICKET,
    "high_priority_tickets": _TICKET,
    "rejects": {
        "topic": "VARCHAR",
        "partition": "INTEGER",
        "offset": "BIGINT",
        "timestamp": "TIMESTAMP",
        "reason": "VARCHAR",
        "detail": "VARCHAR",
        "ticket_id": "VARCHAR",
        "text": "VARCHAR",
    },
    "tickets_by_type": {"request_type": "VARCHAR", "count": "BIGINT"},
    "tickets_by_priority": {"priority": "VARCHAR", "count": "BIGINT"},
    "metrics": dict.fromkeys(
        ("total_tickets", *(f"{kind}_count" for kind in TEAMS), "critical_priority_count", "unique_clients"), "BIGINT"
    ),
}


@dataclass(frozen=True)
class Outputs:
    """A table for each output, and the runs that wrote them."""

    tables: duckdb.DuckDBPyConnection
    runs: Mapping[str, Run]

    @property
    def run(self) -> Run | None:
        """The run that wrote all outputs; None if they come from several runs."""
        first, *others = self.runs.values()
        return None if any(run.id != first.id for run in others) else first

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, by column."""
        answer = self.tables.execute(sql)
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def load_outputs(folder: Path, wait_s: float = 5.0) -> Outputs:
    """Load all outputs.

    Args:
        wait_s: seconds to wait until all come from one run: a run replaces them one after the other.

    Raises:
        ConfigurationError: an output does not exist.
        ServiceUnavailableError: one is incomplete.
    """
    deadline = time.monotonic() + wait_s
    while True:
        tables = duckdb.connect()
        runs = {}
        for name in NAMES:

            def load(part: Path, fmt: Format, name: str = name) -> None:
                tables.execute(f"CREATE OR REPLACE TABLE {name} AS {_select(name, fmt)}", [str(part)])  # noqa: B023

            runs[name], _ = read_output(folder, name, load)
        outputs = Outputs(tables, runs)
        if outputs.run is not None or time.monotonic() > deadline:
            return outputs
        time.sleep(0.2)


def _select(name: str, fmt: Format) -> str:
    columns = COLUMNS[name]
    if fmt == "parquet":
        casts = ", ".join(f'CAST("{column}" AS {kind}) AS "{column}"' for column, kind in columns.items())
        return f"SELECT {casts} FROM read_parquet(?)"  # noqa: S608
    types = ", ".join(f"'{column}': '{kind}'" for column, kind in columns.items())
    return f"SELECT * FROM read_json(?, format = 'newline_delimited', columns = {{{types}}})"  # noqa: S608
