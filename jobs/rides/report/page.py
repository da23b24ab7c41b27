"""The report's HTML: page.html, filled with the headlines and the figures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from jobs.rides.report.figures import TALL_PX, Figure
from jobs.rides.report.formats import duration, number
from jobs.rides.report.queries import Answers, metric_value

_PAGE = Path(__file__).with_name("page.html")


def page(answers: Answers, drawn: Iterable[Figure], generated: datetime) -> str:
    """The whole HTML, with plotly.js in it once."""
    first, last = (_moment(answers.summary[end]["value"]) for end in ("first", "last"))
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
        for position, (title, figure) in enumerate(drawn)
    ]
    tiles = [
        f'<div class="card"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for label, value, note in headlines(answers)
    ]
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        plotly=get_plotlyjs(),
        span=escape(f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"),
        headlines="\n".join(tiles),
        figures="\n".join(cards),
        source=escape(
            f"Generated at {generated:%Y-%m-%d %H:%M:%S} UTC from the Elasticsearch index {answers.index}, "
            f"{answers.rides:,} rides. Prices have no currency: they are in the unit that the rides came with."
        ),
    )


def headlines(answers: Answers) -> list[tuple[str, str, str]]:
    """Label, value and note of each headline figure."""
    summary = answers.summary
    length_s = (summary["last"]["value"] - summary["first"]["value"]) / 1_000
    rate = f"{number(answers.rides * 60 / length_s)} per minute" if length_s else "at one moment"
    return [
        ("Rides", number(answers.rides), rate),
        ("Revenue", number(metric_value(summary["revenue"])), "sum of all prices"),
        ("Average distance", f"{number(metric_value(summary['distance']))} km", "as the crow flies"),
        (
            "Average price",
            number(metric_value(summary["price"])),
            f"median {number(summary['prices']['values']['50.0'])}",
        ),
        ("Time span", duration(length_s), "from the first to the last ride"),
    ]


def _moment(milliseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
