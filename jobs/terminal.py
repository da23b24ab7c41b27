"""Terminal output: consoles, tables that never cut a value, text from messages, JSON documents."""

from __future__ import annotations

import base64
import codecs
import io
import json
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import rich.markup
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from jobs.errors import DatastreamError

# The width of a console whose output goes to a file or a pipe: wider than any table.
_UNLIMITED = 100_000
_MAX_VALUE_LENGTH = 2_000

# What replaces characters that the encoding of the output does not have.
_PLAIN = {"✓": "ok", "✗": "FAILED", "…": "...", "→": "->", "–": "-", "—": "-"}


def _write_plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char) or ascii(char)[1:-1] for char in missing), error.end


codecs.register_error("plain", _write_plain)


def make_console(*, stderr: bool = False) -> Console:
    """Make a console. Output to a file or a pipe has no colours and no wrapped lines, and does not depend on COLUMNS.

    A terminal wraps long lines itself. The console does not colour numbers or replace emoji codes. Characters that the
    output's encoding does not have are replaced.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="plain")
    is_terminal = stream.isatty()
    return Console(
        stderr=stderr,
        force_terminal=is_terminal,
        width=None if is_terminal else _UNLIMITED,
        soft_wrap=True,
        highlight=False,
        emoji=False,
    )


def print_error(console: Console, error: DatastreamError) -> None:
    """Print an error."""
    console.print(f"[red]error:[/] {escape_lines(str(error))}")


def print_pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Print a line for each name and value; the values are aligned."""
    pairs = list(pairs)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.print(f"{name:<{width}}  {escape(value)}".rstrip())


def fit_table(console: Console, table: Table) -> RenderableType:
    """Return the table with columns that wrap only between words. If it is still too wide, return a line for each row.

    Cells are markup.
    """
    options = console.options.update(max_width=_UNLIMITED)
    total = Measurement.get(console, options, table)
    if total.minimum > console.width:
        rows = zip(*(column.cells for column in table.columns), strict=True)
        return Group(*(_join_cells(table.columns, row) for row in rows))
    ranges = [(_measure_column(console, column), column) for column in table.columns]
    excess = total.maximum - console.width
    for measurement, column in sorted(ranges, key=lambda item: -item[0].span):
        column.width = measurement.maximum - min(max(0, excess), measurement.span)
        excess -= measurement.span
    return table


def _measure_column(console: Console, column: Column) -> Measurement:
    options = console.options.update(max_width=_UNLIMITED)
    cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    return Measurement(max(cell.minimum for cell in cells), max(cell.maximum for cell in cells))


def _join_cells(columns: list[Column], row: tuple[RenderableType, ...]) -> Text:
    titles = [f"{column.header}: " if column.header else "" for column in columns]
    text = ", ".join(f"{title}{cell}" for title, cell in zip(titles, row, strict=True) if cell)
    return wrap_words(text)


def wrap_words(markup: str) -> Text:
    """Return a text that the console wraps between words."""
    text = Text.from_markup(markup, emoji=False, overflow="fold")
    text.no_wrap = False
    return text


def escape(text: str) -> str:
    r"""Escape text from outside for a console: line breaks and other unprintable characters (`\n`), rich's markup."""
    printable = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return rich.markup.escape("".join(printable))


def escape_lines(text: str) -> str:
    """Escape each line of a text of several lines."""
    return "\n".join(map(escape, text.splitlines()))


def show_value(value: bytes | None) -> str:
    """Show the key or value of a message on one line, escaped; a long one shortened to its start and its size."""
    if value is None:
        return "null"
    text = value.decode("utf-8", "backslashreplace")
    if len(text) <= _MAX_VALUE_LENGTH:
        return escape(text)
    return f"{escape(text[:_MAX_VALUE_LENGTH])}… ({len(value):,} bytes; --json prints all)"


def print_json(document: object) -> None:
    """Print a document to stdout as JSON in ASCII, with floats in full precision; NaN and infinity become null."""
    print(json.dumps(msgspec.json.decode(msgspec.json.encode(document)), indent=2))


def encode_value(value: bytes | None) -> Any:
    """Convert the key or value of a message for `print_json`: to text, or to {"base64": …} if it is not UTF-8."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value or b"").decode()}
