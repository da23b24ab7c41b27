"""Charts as SVG and tables as HTML. Names and titles are plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Any, NamedTuple

WIDTH, ROW = 600, 34  # px

Row = dict[str, Any]


class Part(NamedTuple):
    """A part of a bar. Negative values are drawn as 0."""

    value: float
    colour: str
    title: str


class Bar(NamedTuple):
    """A bar with its name to the left and a text to the right."""

    name: str
    parts: Sequence[Part]
    text: str


def draw_bars(bars: Sequence[Bar], *, label: int, room: int) -> str:
    """A row for each bar, on one scale.

    Args:
        label: the width of the names, in px of WIDTH.
        room: the width for the text after the longest bar.
    """
    if not bars:
        return "<p>None</p>"
    longest = max(sum(max(0, part.value) for part in bar.parts) for bar in bars)
    scale = (WIDTH - label - room) / (longest or 1)
    shapes = []
    for position, bar in enumerate(bars):
        x, y = float(label), position * ROW
        shapes.append(f'<text x="0" y="{y + 20}" font-size="14">{escape(bar.name)}</text>')
        for part in bar.parts:
            width = max(0, part.value) * scale
            shapes.append(draw_rectangle((x, y + 4), (width, ROW - 12), part.colour, part.title))
            x += width
        shapes.append(f'<text x="{x + 6:.1f}" y="{y + 20}" font-size="14">{escape(bar.text)}</text>')
    return wrap(shapes, ROW * len(bars))


def draw_counts(counts: Mapping[str, int], colours: Mapping[str, str]) -> str:
    """A bar for each name in `colours`, with its count and share."""
    total = sum(counts.values())
    bars = []
    for name, colour in colours.items():
        count = counts.get(name, 0)
        text = f"{count:,} ({count / max(1, total):.1%})"
        bars.append(Bar(name, [Part(count, colour, f"{name}: {text}")], text))
    return draw_bars(bars, label=110, room=170)


def draw_rectangle(corner: tuple[float, float], size: tuple[float, float], colour: str, title: str) -> str:
    (x, y), (width, height) = corner, size
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def draw_legend(colours: Mapping[str, str]) -> str:
    items = (f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items())
    return f'<p class="legend">{"".join(items)}</p>'


def wrap(shapes: Iterable[str], height: float, *, width: int = WIDTH, kind: str = "chart") -> str:
    """An image of the shapes.

    Args:
        kind: its CSS class: "chart", or "map", which takes the width of the page.
    """
    return f'<svg class="{kind}" viewBox="0 0 {width} {height:.0f}" role="img">{"".join(shapes)}</svg>'


def make_table(rows: Sequence[Row]) -> str:
    """An HTML table with the columns of the rows."""
    if not rows:
        return "<p>None</p>"
    numeric = {name for name in rows[0] if any(_is_number(row[name]) for row in rows)}
    head = "".join(f"<th{' class=number' if name in numeric else ''}>{escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_make_cell, row.values()))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _make_cell(value: Any) -> str:
    if _is_number(value):
        return f'<td class="number">{f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"}</td>'
    return f"<td>{escape('' if value is None else str(value)[:120])}</td>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal)
