"""Commands for observability."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table

from jobs.cli.app import AsJson, app, console
from jobs.settings import LOOPBACK, load
from jobs.terminal import escape, fit_table, print_json, wrap_words
from jobs.verticals import find_verticals, merge_settings

if TYPE_CHECKING:
    from jobs.observability.status import Status

_VERDICTS = {
    "balanced": "[green]balanced[/]",
    "lost_or_doubled": "[red]lost or doubled[/]",
    "in_progress": "in progress",
    "no_verdict": "[yellow]no verdict[/]",
}


@app.command("serve-metrics")
def serve_metrics(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = LOOPBACK,
) -> None:
    """Serve the metrics that no public exporter has: lag in seconds, held back offsets, ledgers. For Docker.

    Without Docker, `make observe` starts an exporter that serves all metrics.
    """
    from jobs.observability.server import make_own_probes, serve

    settings: Any = load(merge_settings())
    serve(make_own_probes(settings, find_verticals(), own_only=True), host, settings.observability_exporter_port)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show services, lag, freshness, last runs, dead letters, ledgers and alerts. Needs the exporter: `make observe`.

    JSON: parts, groups, held_back, dags, dead_letters, ledgers, warehouse, alerts, notes.
    """
    from jobs.observability.status import read_status

    found = read_status(load(merge_settings()))  # type: ignore[arg-type]
    if as_json:
        print_json(found)
    else:
        console.print(show_status(console, found))


def show_status(console: Console, status: Status) -> RenderableType:
    """Build one screen at 80 columns: the alerts first, then what explains them."""
    tables = [_show_groups(status), _show_dags(status), _show_dead_letters(status), _show_ledgers(status)]
    return Group(
        *_show_alerts(status),
        *_show_parts(status),
        *(fit_table(console, table) for table in tables if table.row_count),
        *_show_warehouse(status),
        *(wrap_words(escape(note)) for note in status.notes),
    )


def _show_alerts(status: Status) -> list[RenderableType]:
    if status.alerts is not None and not status.alerts:
        return [wrap_words("[green]✓[/] no alert is pending or firing")]
    return [
        wrap_words(
            f"{'[red]✗ firing[/]' if alert.state == 'firing' else '[yellow]… pending[/]'} "
            f"{escape(alert.name)} ({escape(alert.severity)}): {escape(alert.summary)}. {escape(alert.runbook)}"
        )
        for alert in status.alerts or []
    ]


def _show_parts(status: Status) -> list[RenderableType]:
    """A line for each observer."""
    lines: list[RenderableType] = []
    for seen_by in dict.fromkeys(part.seen_by for part in status.parts):
        marks = [
            f"{escape(part.name)} [green]✓[/]" if part.is_up else f"[red]{escape(part.name)} ✗ down[/]"
            for part in status.parts
            if part.seen_by == seen_by
        ]
        lines.append(wrap_words(f"{escape(seen_by)}: {', '.join(marks)}"))
    return lines


def _show_groups(status: Status) -> Table:
    held = {topic.topic: topic.offsets for topic in status.held_back}
    table = _make_table("consumer group", "topic", "unread", "oldest", "held back")
    for group in status.groups:
        offsets = "?" if group.offsets is None else f"{group.offsets:,}"
        is_held = group.topic in held
        table.add_row(
            escape(group.group),
            escape(group.topic),
            offsets,
            "?" if group.age_s is None else format_duration(group.age_s),
            f"[red]{held[group.topic]:,}[/]" if is_held else "",
        )
    return table


def _show_dags(status: Status) -> Table:
    now = datetime.now(UTC)
    table = _make_table("DAG", "last run", "ended", "took", "95 % fresh")
    for dag in status.dags or []:
        run = dag.last_run
        paused = " (off)" if dag.is_paused else ""
        colour = "green" if run and run.state == "success" else "red"
        table.add_row(
            escape(dag.dag_id) + paused,
            f"[{colour}]{escape(run.state)}[/]" if run else "none",
            f"{format_duration((now - datetime.fromisoformat(run.ended_at)).total_seconds())} ago" if run else "",
            format_duration(run.duration_s) if run else "",
            "" if dag.fresh_within_s is None else f"≤ {format_duration(dag.fresh_within_s)}",
        )
    return table


def _show_dead_letters(status: Status) -> Table:
    table = Table("dead letters", Column("offsets", justify="right"), "reasons since the exporter's start")
    for letters in status.dead_letters:
        reasons = ", ".join(f"{escape(reason)} {count:,}" for reason, count in letters.reasons.items())
        offsets = "?" if letters.offsets is None else f"{letters.offsets:,}"
        table.add_row(escape(letters.topic), offsets, reasons)
    return table


def _show_ledgers(status: Status) -> Table:
    table = _make_table("ledger", "verdict", "taken", "lost", "doubled", "faults")
    for ledger in status.ledgers:
        table.add_row(
            escape(ledger.vertical),
            _VERDICTS[ledger.verdict],
            f"{format_duration(ledger.age_s)} ago",
            *(f"[red]{count:,}[/]" if count else "0" for count in (ledger.lost, ledger.doubled, ledger.faults)),
        )
    return table


def _show_warehouse(status: Status) -> list[RenderableType]:
    """One line, once the warehouse has rows."""
    warehouse = status.warehouse
    if warehouse.row_age_s is None:
        return []
    age, failed = warehouse.backup_age_s, warehouse.failed_tests
    backup = "no backup yet" if age is None else f"newest backup {format_duration(age)} old"
    tests = "dbt has tested nothing yet" if failed is None else f"{failed:,} failed tests of dbt"
    tests = f"[red]{tests}[/]" if failed else tests
    return [wrap_words(f"warehouse: newest row {format_duration(warehouse.row_age_s)} old, {tests}, {backup}")]


def _make_table(first: str, second: str, *numbers: str) -> Table:
    return Table(first, second, *(Column(title, justify="right") for title in numbers))


def format_duration(seconds: float) -> str:
    """Format a duration with one unit: 4.51 → `4.5 s`, 95 → `95 s`, 200 → `3 min`."""
    if math.isinf(seconds):
        return "∞"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    number = f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}".removesuffix(".0")
    return f"{number} s"
