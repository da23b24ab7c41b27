"""One page: headlines, then cards with charts and tables. The template is page.html beside this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import msgspec

_TEMPLATE = Path(__file__).with_name("page.html")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows. Everything is plain text, except the cards.

    Attributes:
        title: of the browser's tab, after "Datastream: ".
        span: the time that the data covers.
        headlines: a figure by its name.
        cards: HTML by its title, from `jobs.pages.charts`.
        source: where the data is from.
        warnings: what a reader must know first.
    """

    title: str
    heading: str
    span: str
    headlines: Mapping[str, str]
    cards: Mapping[str, str]
    source: str
    warnings: Sequence[str] = ()


def render(page: Page) -> str:
    """Render a page as HTML."""
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(page.title),
        heading=escape(page.heading),
        span=escape(page.span),
        warnings="\n".join(f'<p class="warning">{escape(line)}</p>' for line in page.warnings),
        headlines="\n".join(
            f'<article><p>{escape(name)}</p><div class="value">{escape(text)}</div></article>'
            for name, text in page.headlines.items()
        ),
        cards="\n".join(f"<article><h2>{escape(title)}</h2>{card}</article>" for title, card in page.cards.items()),
        source=escape(page.source),
    )


def write(path: Path, text: str) -> Path:
    """Write a page. A reader sees the page before or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    return part.replace(path)
