"""What runs statements of the playbook: BigQuery (jobs.zones.bigquery) or this machine (jobs.zones.local)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from jobs.errors import ConfigurationError


class StatementError(ConfigurationError):
    """A statement is wrong or cannot run as it is."""


class RefusedError(ConfigurationError):
    """An ASSERT of the playbook does not hold; its text names the remedy."""


@dataclass(frozen=True)
class Answer:
    """What came of a statement.

    `rows` counts the rows of a query, of the table that was made, or those that changed; None where there are none to
    count. `values` are a query's rows by `columns`.
    """

    rows: int | None = None
    columns: tuple[str, ...] = ()
    values: tuple[tuple[Any, ...], ...] = ()
    note: str = ""

    def records(self) -> list[dict[str, Any]]:
        """A query's rows by the names of their columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.values]


class Engine(Protocol):
    """Runs statements in BigQuery's SQL."""

    @property
    def title(self) -> str:
        """What this is, in a few words for people."""

    def estimate(self, statement: str) -> str:
        """What is known of a statement before it runs, in a few words; checks it as far as that goes.

        Raises:
            StatementError: it is wrong.
        """

    def run(self, statement: str, step: str) -> Answer:
        """Run a statement of a step.

        Raises:
            StatementError, RefusedError, ConfigurationError, ServiceUnavailableError
        """
