"""Print the steps and results of `python -m jobs bqml`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from jobs.rides.zones import Zones
from jobs.zones.engine import Answer
from jobs.zones.playbook import Step

_MAX_LINES = 9
_COMFORTS = ("low", "medium", "high")


class Printer:
    """Prints the name and title of each step once, then the answers to its statements."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step: Step | None = None
        self._table: Table | None = None
        self._row_count = 0

    def __call__(self, step: Step, statement: str, answer: Answer) -> None:
        """Print an answer. All queries of a step share one table."""
        if step is not self._step:
            self.close()
            self._step = step
            self._console.print(f"[bold]{step.name}[/]  [dim]{escape(step.title)}[/]", soft_wrap=True)
        if not answer.columns:
            count = "done" if answer.rows is None else f"{answer.rows:,} rows"
            self._console.print(f"  {count}{f', {answer.note}' if answer.note else ''}")
            return
        if self._table is None:
            numbers = {name for name, value in zip(answer.columns, (answer.values or ((),))[0], strict=False)
                       if isinstance(value, int | float)}  # fmt: skip
            columns = [Column(name, justify="right" if name in numbers else "left") for name in answer.columns]
            self._table = Table(*columns, box=None, padding=(0, 2))
        for row in answer.values[: _MAX_LINES - self._table.row_count]:
            self._table.add_row(*map(format_value, row))
        self._row_count += answer.rows or 0

    def close(self) -> None:
        """Print the table of the last step."""
        if self._table is not None:
            self._console.print(self._table)
            if self._row_count > self._table.row_count:
                self._console.print(f"  {self._row_count:,} rows, the first {self._table.row_count} shown")
            else:
                self._console.print(f"  {self._row_count:,} rows")
        self._table, self._row_count = None, 0


def format_value(value: Any) -> str:
    """Format a value for people."""
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1_000 else f"{value:,.2f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def revenue_table(zones: Zones) -> Table:
    """Build a table of revenue by zone and comfort with totals; the zone with the highest revenue comes first."""
    names = {part.comfort for part in zones.revenue}
    comforts = [*[name for name in _COMFORTS if name in names], *sorted(names - set(_COMFORTS))]
    by_zone: dict[str, dict[str, float]] = {}
    rides: dict[str, int] = {}
    for part in zones.revenue:
        by_zone.setdefault(part.label, {})[part.comfort] = part.revenue
        rides[part.label] = rides.get(part.label, 0) + part.rides
    table = Table("zone", *[Column(name, justify="right") for name in (*comforts, "revenue", "rides")])
    for label, parts in sorted(by_zone.items(), key=lambda item: -sum(item[1].values())):
        amounts = [parts.get(comfort, 0.0) for comfort in comforts]
        cells = [f"{amount:,.2f}" for amount in (*amounts, sum(amounts))]
        table.add_row(escape(label), *cells, f"{rides[label]:,}")
    sums = [sum(parts.get(comfort, 0.0) for parts in by_zone.values()) for comfort in comforts]
    table.add_section()
    cells = [f"{amount:,.2f}" for amount in (*sums, sum(sums))]
    table.add_row("all zones", *cells, f"{zones.rides:,}")
    return table
