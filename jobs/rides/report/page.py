"""The report's HTML: the template page.html with the headlines and figures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from jobs.rides.report.figures import TALL_PX, Figure
from jobs.rides.report.formats import format_duration, format_number
from jobs.rides.report.queries import Answers, read_metric

_TEMPLATE = Path(__file__).with_name("page.html")


def render_page(answers: Answers, figures: Iterable[Figure], generated_at: datetime) -> str:
    """Render the page. It contains one copy of plotly.js."""
    first, last = (_convert_epoch_ms(answers.summary[end]["value"]) for end in ("first", "last"))
    cards = [
        f'<article class="card{" tall" if figure.layout.height == TALL_PX else ""}"><h2>{escape(title)}</h2>'
        + figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            include_mathjax=False,
            div_id=f"figure-{position}",
            config={"responsive": True, "displaylogo": False, "displayModeBar": False},
        )
        + "</article>"
        for position, (title, figure) in enumerate(figures)
    ]
    tiles = [
        f'<div class="card"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for label, value, note in format_headlines(answers)
    ]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        plotly=get_plotlyjs(),
        span=escape(f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"),
        headlines="\n".join(tiles),
        figures="\n".join(cards),
        source=escape(
            f"Generated at {generated_at:%Y-%m-%d %H:%M:%S} UTC from the Elasticsearch index {answers.index}, "
            f"{answers.rides:,} rides. Prices have no currency: they are in the unit that the rides came with."
        ),
    )


def format_headlines(answers: Answers) -> list[tuple[str, str, str]]:
    """Format the label, value and note of each headline."""
    summary = answers.summary
    duration_s = (summary["last"]["value"] - summary["first"]["value"]) / 1_000
    rate = f"{format_number(answers.rides * 60 / duration_s)} per minute" if duration_s else "at one moment"
    return [
        ("Rides", format_number(answers.rides), rate),
        ("Revenue", format_number(read_metric(summary["revenue"])), "sum of all prices"),
        ("Average distance", f"{format_number(read_metric(summary['distance']))} km", "as the crow flies"),
        (
            "Average price",
            format_number(read_metric(summary["price"])),
            f"median {format_number(summary['prices']['values']['50.0'])}",
        ),
        ("Time span", format_duration(duration_s), "from the first to the last ride"),
    ]


def _convert_epoch_ms(milliseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
