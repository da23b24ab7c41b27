"""The HTML page for a support lead. One file, without scripts; charts are SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from jobs.tickets.contract import PRIORITIES, TEAMS
from jobs.tickets.reader import Outputs

_TEMPLATE = Path(__file__).with_name("page.html")
COLOURS = dict(zip(PRIORITIES, ("#b9c6d6", "#5b8fd0", "#f0a33c", "#d0453f"), strict=True))
WIDTH, ROW, LABEL = 600, 34, 165  # px
COLUMNS, HEIGHT = 40, 160
NEWEST = 10

Row = dict[str, Any]


def render_page(outputs: Outputs) -> str:
    """Render the page."""
    (metrics,) = outputs.query("FROM metrics")
    (span,) = outputs.query("SELECT min(created_at) AS first, max(created_at) AS last FROM tickets_with_assignment")
    (rejected,) = outputs.query("SELECT count(*) AS count FROM rejects")
    by_priority = {row["priority"]: row["count"] for row in outputs.query("FROM tickets_by_priority")}
    headlines = {
        "Tickets": metrics["total_tickets"],
        "Critical": metrics["critical_priority_count"],
        "High": by_priority["high"],
        "Clients": metrics["unique_clients"],
        "Rejected messages": rejected["count"],
    }
    cards = {
        "Tickets by team and priority": draw_teams(outputs),
        "Tickets by time of creation": draw_times(outputs),
        f"Newest {NEWEST} critical tickets": make_table(
            outputs.query(
                "SELECT strftime(created_at, '%Y-%m-%d %H:%M:%S') AS created, assigned_team AS team, request, "  # noqa: S608
                "client_id AS client FROM high_priority_tickets WHERE priority = 'critical' "
                f"ORDER BY created_at DESC, ticket_id LIMIT {NEWEST}"
            )
        ),
        "Clients with the most tickets": make_table(
            outputs.query(
                "SELECT client_id AS client, count(*) AS tickets, count(*) FILTER (priority IN ('high', 'critical')) "
                "AS high FROM tickets_with_assignment GROUP BY ALL ORDER BY tickets DESC, high DESC, client LIMIT 10"
            )
        ),
        "Most frequent requests": make_table(
            outputs.query(
                "SELECT request, assigned_team AS team, count(*) AS tickets FROM tickets_with_assignment GROUP BY ALL "
                "ORDER BY tickets DESC, request LIMIT 10"
            )
        ),
        "Rejected messages by reason": make_table(
            outputs.query(
                "SELECT reason, count(*) AS messages, arg_max(detail, timestamp) AS latest FROM rejects "
                "GROUP BY reason ORDER BY messages DESC, reason"
            )
        ),
    }
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        span=escape(_describe_span(span["first"], span["last"])),
        warning="".join(f'<p class="warning">{escape(line)}</p>' for line in describe_runs(outputs)),
        headlines="\n".join(
            f'<article><p>{escape(name)}</p><div class="value">{count:,}</div></article>'
            for name, count in headlines.items()
        ),
        cards="\n".join(f"<article><h2>{escape(title)}</h2>{card}</article>" for title, card in cards.items()),
        source=escape("; ".join(f"{name}: run {run.id}, {run.finished_at}" for name, run in outputs.runs.items())),
    )


def describe_runs(outputs: Outputs) -> list[str]:
    """A warning for each run that wrote only some of the outputs; empty if one run wrote all."""
    if outputs.run is not None:
        return []
    by_run: dict[str, list[str]] = {}
    for name, run in outputs.runs.items():
        by_run.setdefault(f"{run.id} of {run.finished_at}", []).append(name)
    lines = "; ".join(f"{run}: {', '.join(names)}" for run, names in by_run.items())
    return [f"The outputs come from different runs, so their figures may differ. {lines}"]


def _describe_span(first: datetime | None, last: datetime | None) -> str:
    if first is None or last is None:
        return "No tickets yet"
    return f"Created from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"


def draw_teams(outputs: Outputs) -> str:
    """A bar for each team, of one part for each priority."""
    rows = outputs.query("SELECT assigned_team, priority, count(*) AS count FROM tickets_with_assignment GROUP BY ALL")
    counts = {(row["assigned_team"], row["priority"]): row["count"] for row in rows}
    totals = {team: sum(counts.get((team, priority), 0) for priority in PRIORITIES) for team in TEAMS.values()}
    scale = (WIDTH - LABEL - 60) / max(1, *totals.values())
    shapes = []
    for position, (team, total) in enumerate(sorted(totals.items(), key=lambda item: -item[1])):
        x, y = float(LABEL), position * ROW
        shapes.append(f'<text x="0" y="{y + 20}" font-size="14">{escape(team)}</text>')
        for priority in reversed(PRIORITIES):
            width = counts.get((team, priority), 0) * scale
            title = f"{team}, {priority}: {counts.get((team, priority), 0):,}"
            shapes.append(_draw_bar((x, y + 4), (width, ROW - 12), COLOURS[priority], title))
            x += width
        shapes.append(f'<text x="{x + 6:.1f}" y="{y + 20}" font-size="14">{total:,}</text>')
    return _draw_legend() + _wrap(shapes, ROW * len(totals))


def draw_times(outputs: Outputs) -> str:
    """Columns over the time between the first and the last ticket, of one part for each priority."""
    rows = outputs.query(
        "WITH span AS (SELECT epoch_us(min(created_at)) AS first, "  # noqa: S608
        "greatest(1, epoch_us(max(created_at)) - epoch_us(min(created_at))) AS length FROM tickets_with_assignment) "
        f"SELECT least({COLUMNS - 1}, ({COLUMNS} * (epoch_us(created_at) - first) / length)::INTEGER) AS number, "
        "priority, count(*) AS count FROM tickets_with_assignment, span GROUP BY ALL"
    )
    counts = {(row["number"], row["priority"]): row["count"] for row in rows}
    highest = max((sum(counts.get((number, name), 0) for name in PRIORITIES) for number in range(COLUMNS)), default=0)
    width = WIDTH / COLUMNS
    shapes = []
    for number in range(COLUMNS):
        y = float(HEIGHT)
        for priority in reversed(PRIORITIES):
            height = counts.get((number, priority), 0) * (HEIGHT - 10) / max(1, highest)
            y -= height
            title = f"{priority}: {counts.get((number, priority), 0):,}"
            shapes.append(_draw_bar((number * width, y), (width - 2, height), COLOURS[priority], title))
    return _draw_legend() + _wrap(shapes, HEIGHT)


def _draw_bar(corner: tuple[float, float], size: tuple[float, float], colour: str, title: str) -> str:
    (x, y), (width, height) = corner, size
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _wrap(shapes: Iterable[str], height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(shapes)}</svg>'


def _draw_legend() -> str:
    items = (f'<span><i style="background:{COLOURS[name]}"></i>{name}</span>' for name in reversed(PRIORITIES))
    return f'<p class="legend">{"".join(items)}</p>'


def make_table(rows: Sequence[Row]) -> str:
    """An HTML table with the columns of the rows."""
    if not rows:
        return "<p>None</p>"
    head = "".join(
        f"<th{' class=number' if isinstance(value, int) else ''}>{escape(name)}</th>" for name, value in rows[0].items()
    )
    body = "".join(f"<tr>{''.join(map(_make_cell, row.values()))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _make_cell(value: Any) -> str:
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{escape(str(value)[:120])}</td>"
