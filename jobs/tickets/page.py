"""The HTML page for a support lead. One file, without scripts; charts are SVG."""

from __future__ import annotations

from datetime import datetime

from jobs.pages.charts import WIDTH, Bar, Part, draw_bars, draw_legend, draw_rectangle, make_table, wrap
from jobs.pages.page import Page, render
from jobs.tickets.contract import PRIORITIES, TEAMS
from jobs.tickets.reader import Outputs

COLOURS = dict(zip(PRIORITIES, ("#b9c6d6", "#5b8fd0", "#f0a33c", "#d0453f"), strict=True))
LEGEND = dict(reversed(COLOURS.items()))
COLUMNS, HEIGHT = 40, 160  # px
NEWEST = 10


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
    return render(
        Page(
            title="tickets",
            heading="Support tickets",
            span=_describe_span(span["first"], span["last"]),
            headlines={name: f"{count:,}" for name, count in headlines.items()},
            cards=cards,
            source="; ".join(f"{name}: run {run.id}, {run.finished_at}" for name, run in outputs.runs.items()),
            warnings=describe_runs(outputs),
        )
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
    bars = [
        Bar(
            team,
            [
                Part(count, COLOURS[priority], f"{team}, {priority}: {count:,}")
                for priority in reversed(PRIORITIES)
                for count in [counts.get((team, priority), 0)]
            ],
            f"{total:,}",
        )
        for team, total in sorted(totals.items(), key=lambda item: -item[1])
    ]
    return draw_legend(LEGEND) + draw_bars(bars, label=215, room=70)


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
            shapes.append(draw_rectangle((number * width, y), (width - 2, height), COLOURS[priority], title))
    return draw_legend(LEGEND) + wrap(shapes, HEIGHT)
