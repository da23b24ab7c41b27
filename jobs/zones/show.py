"""Print the steps and results of `python -m jobs bqml`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from jobs.rides.zones import Revenue, Zones
from jobs.terminal import escape, fit_table
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
            self._console.print(f"[bold]{step.name}[/]  [dim]{escape(step.title)}[/]")
        if not answer.columns:
            count = "done" if answer.rows is None else f"{answer.rows:,} rows"
            self._console.print(f"  {count}{f', {answer.note}' if answer.note else ''}")
            return
        if self._table is None:
            numbers = {name for name, value in zip(answer.columns, (answer.values or ((),))[0], strict=False)
                       if isinstance(value, int | float)}  # fmt: skip
            columns = [Column(name, justify="right" if name in numbers else "left") for name in answer.columns]
            self._table = Table(*columns, box=None, padding=(0, 0, 0, 2))
        for row in answer.values[: _MAX_LINES - self._table.row_count]:
            self._table.add_row(*(escape(format_value(value)) for value in row))
        self._row_count += answer.rows or 0

    def close(self) -> None:
        """Print the table of the last step."""
        if self._table is not None:
            self._console.print(fit_table(self._console, self._table))
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


def build_revenue_table(zones: Zones) -> Table:
    """Build a table of revenue by zone, with a line for each comfort; the zone with the highest revenue comes first."""
    by_zone: dict[str, list[Revenue]] = {}
    for part in zones.revenue:
        by_zone.setdefault(part.label, []).append(part)
    table = Table("zone", Column("revenue", justify="right"), Column("rides", justify="right"))
    for label, parts in sorted(by_zone.items(), key=lambda item: -_sum_revenue(item[1])):
        _add_revenue(table, label, parts)
    table.add_section()
    _add_revenue(table, "all zones", zones.revenue)
    return table


def _add_revenue(table: Table, label: str, parts: list[Revenue]) -> None:
    """Add a line for a zone, and an indented one for each comfort."""
    table.add_row(escape(label), f"{_sum_revenue(parts):,.2f}", f"{sum(part.rides for part in parts):,}")
    names = {part.comfort for part in parts}
    for comfort in [*(name for name in _COMFORTS if name in names), *sorted(names - set(_COMFORTS))]:
        own = [part for part in parts if part.comfort == comfort]
        table.add_row(f"  {escape(comfort)}", f"{_sum_revenue(own):,.2f}", f"{sum(part.rides for part in own):,}")


def _sum_revenue(parts: Iterable[Revenue]) -> float:
    return sum(part.revenue for part in parts)
