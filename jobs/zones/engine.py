"""The interface of the engines that run the playbook: BigQuery (jobs.zones.bigquery) and local (jobs.zones.local)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from jobs.errors import ConfigurationError


class StatementError(ConfigurationError):
    """A statement is invalid or cannot run."""


class RefusedError(ConfigurationError):
    """An ASSERT in the playbook failed; its text names the remedy."""


@dataclass(frozen=True)
class Answer:
    """The result of a statement.

    `rows` is the number of rows that a query returned, a new table has or a statement changed. It is None for other
    statements. `values` are a query's rows; their fields are in the order of `columns`.
    """

    rows: int | None = None
    columns: tuple[str, ...] = ()
    values: tuple[tuple[Any, ...], ...] = ()
    note: str = ""

    def to_records(self) -> list[dict[str, Any]]:
        """Return a query's rows as dictionaries by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.values]


class Engine(Protocol):
    """Runs statements in the SQL of BigQuery."""

    @property
    def title(self) -> str:
        """The engine's name, for people."""

    def estimate(self, statement: str) -> str:
        """Check a statement without running it; return its expected cost, in a few words.

        Raises:
            StatementError: the statement is invalid.
        """

    def run(self, statement: str, step: str) -> Answer:
        """Run one statement of a step.

        Raises:
            StatementError, RefusedError, ConfigurationError, ServiceUnavailableError
        """
