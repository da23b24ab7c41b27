"""Terminal output: nothing is cut at any width, piped output is plain, and text from messages is escaped."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from jobs.errors import ConfigurationError
from jobs.terminal import (
    encode_value,
    escape,
    fit_table,
    make_console,
    print_error,
    print_json,
    print_pairs,
    show_value,
)


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def open_console(monkeypatch: pytest.MonkeyPatch, *, columns: int, is_terminal: bool) -> tuple[Console, Stream]:
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    return make_console(), stream


def build_table() -> Table:
    table = Table("group", Column("lag", justify="right"), "a remark on this group")
    table.add_row("dag_index_and_export.PutGCP", "15,951,749", "held back by a transaction of another client")
    table.add_row("dag_compute_cost", "0", "")
    return table


@pytest.mark.parametrize("columns", [30, 50, 60, 70, 80, 200])
def test_a_table_never_cuts_a_word(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    console, stream = open_console(monkeypatch, columns=columns, is_terminal=True)
    console.print(fit_table(console, build_table()))
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    words = {word.rstrip(",") for word in re.findall(r"[\w.,]+", text)}
    assert words >= {"dag_index_and_export.PutGCP", "15,951,749", "held", "transaction", "client"}


def test_piped_output_is_plain_at_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = set()
    for columns, force in ((40, "1"), (200, "")):
        monkeypatch.setenv("FORCE_COLOR", force)
        console, stream = open_console(monkeypatch, columns=columns, is_terminal=False)
        console.print(fit_table(console, build_table()))
        console.print("[red]✗[/] " + 60 * "word ")
        with console.status("waiting"):
            pass
        texts.add(stream.getvalue())
    (text,) = texts
    assert "\x1b" not in text
    assert "\r" not in text
    assert re.search(r"PutGCP │ 15,951,749 │ held back by a transaction of another client │\n", text)
    assert text.endswith("✗ " + 60 * "word " + "\n")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"ok Kafka - caf\xe9 -> \u65e5\u672c..."),
        ("latin-1", r"ok Kafka - café -> \u65e5\u672c..."),
        ("cp1252", r"ok Kafka – café -> \u65e5\u672c…"),
        ("utf-8", "✓ Kafka – café → 日本…"),
    ],
)
def test_output_never_fails_for_want_of_a_character(encoding: str, expected: str) -> None:
    code = """
from jobs.terminal import make_console
for console in (make_console(), make_console(stderr=True)):
    console.print("✓ Kafka – café → 日本…")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    assert done.stdout == done.stderr
    shown = done.stdout.decode(encoding).strip()
    assert shown == expected


def test_figures_are_aligned_to_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = open_console(monkeypatch, columns=80, is_terminal=False)
    console.print(fit_table(console, build_table()))
    assert "│          0 │" in stream.getvalue()


def test_pairs_are_aligned_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = open_console(monkeypatch, columns=20, is_terminal=True)
    print_pairs(console, [("Kafka", "127.0.0.1:29092"), ("Report", "/a/long/folder/.local/report.html")])
    assert stream.getvalue() == "Kafka   127.0.0.1:29092\nReport  /a/long/folder/.local/report.html\n"


@given(st.text())
def test_escaped_text_is_one_printable_line_without_markup(text: str) -> None:
    shown = Text.from_markup(f"[bold]{escape(text)}[/]", emoji=False).plain
    assert shown.isprintable()
    assert not text.isprintable() or shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("line\nbreak\r\n", r"line\nbreak\r\n"),
        ("\x1b[2J\x9b31m\x07", r"\x1b[2J\x9b31m\x07"),
        ("gnp.\u202egnp\u2066", r"gnp.\u202egnp\u2066"),
        ("[red]alert[/red] :warning:", "[red]alert[/red] :warning:"),
        ("Zürich 東京", "Zürich 東京"),
    ],
)
def test_text_from_messages_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    console, stream = open_console(monkeypatch, columns=80, is_terminal=False)
    console.print(escape(text))
    assert stream.getvalue() == shown + "\n"


def test_errors_keep_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = open_console(monkeypatch, columns=20, is_terminal=False)
    print_error(console, ConfigurationError("- KAFKA_PORT=[red]\n- GCS_PORT is taken by another\x1bprocess"))
    assert stream.getvalue() == "error: - KAFKA_PORT=[red]\n- GCS_PORT is taken by another\\x1bprocess\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (b"", ""),
        (b'{"a": 1}\n', r'{"a": 1}\n'),
        (b"\xef\xbb\xbf{\xff}", r"\ufeff{\xff}"),
        (3000 * b"a", 2000 * "a" + "… (3,000 bytes; --json prints all)"),
    ],
)
def test_values_are_shown_on_one_line(value: bytes | None, shown: str) -> None:
    assert show_value(value) == shown


@pytest.mark.parametrize(
    ("value", "encoded"), [(None, None), (b"", ""), ("東\n".encode(), "東\n"), (b"\xff", {"base64": "/w=="})]
)
def test_json_holds_values_as_text_or_base64(value: bytes | None, encoded: object) -> None:
    assert encode_value(value) == encoded


def test_json_is_ascii_with_full_precision(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"price": 0.1 + 0.2, "n": 2**53 + 1, "nan": float("nan"), "ts": datetime(2026, 1, 5, tzinfo=UTC)}
    print_json(document | {"text": "東\u202e\x9b\n"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {
        "price": 0.30000000000000004,
        "n": 2**53 + 1,
        "nan": None,
        "ts": "2026-01-05T00:00:00Z",
        "text": "東\u202e\x9b\n",
    }
