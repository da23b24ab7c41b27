"""JSON lines: each is an observation or a reject, whatever comes before it."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest

from jobs.flights.contract import Kind, Reject, Weather
from jobs.flights.sources.json_lines import read_json_lines
from jobs.flights.sources.lines import MAX_LINE, read_lines

CONTENT: dict[str, Any] = {
    "observed_at": "2026-11-28T12:00:00Z",
    "place_id": "CDG",
    "lat": 49.0,
    "lon": 2.5,
    "units": "metric",
    "aqi": 3,
}
GOOD = json.dumps(CONTENT).encode()


def read(content: bytes) -> list[Any]:
    return list(read_json_lines(BytesIO(content), Kind.WEATHER, "generator"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "empty_value"),
        (b"\xef\xbb\xbf" + GOOD, "byte_order_mark"),
        (GOOD.replace(b"CDG", b"\xff"), "invalid_utf8"),
        (GOOD[:-1], "invalid_json"),
        (GOOD + GOOD, "invalid_json"),
        (GOOD.replace(b"49.0", b"NaN"), "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[]", "not_an_object"),
        (GOOD[:-1] + b', "aqi": 3}', "duplicate_key"),
        (GOOD.replace(b": 3}", b": 3.5}"), "wrong_type"),
        (GOOD.replace(b"49.0", b'"49.0"'), "wrong_type"),
        (GOOD.replace(b"49.0", b"1e999"), "out_of_range"),
        (GOOD.replace(b"49.0", b"9" * 5000), "out_of_range"),
        (GOOD[:-1] + b', "note": "' + b"x" * MAX_LINE + b'"}', "truncated"),
    ],
)
def test_a_bad_line_is_one_reject_and_the_next_line_is_read(line: bytes, reason: str) -> None:
    before, reject, after = read(GOOD + b"\n" + line + b"\r\n" + GOOD)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.origin.position) == (reason, "line 2")
    assert reject.value == line[:MAX_LINE]
    assert isinstance(before, Weather)
    assert isinstance(after, Weather)
    assert (before.aqi, before.lat, before.event_id) == (3, 49.0, after.event_id)
    assert (after.position, after.source) == ("line 3", "generator")


def test_the_id_of_a_reject_is_that_of_its_input_and_its_fetch() -> None:
    first, second = read(b"x\nx\n")
    assert isinstance(first, Reject)
    assert first.event_id != second.event_id, "another position"
    assert first.event_id == Reject(first.kind, first.origin, "other", "", b"x").event_id


def test_lines_end_where_the_stream_says() -> None:
    long = b"y" * (MAX_LINE * 3) + b"\n"
    lines = list(read_lines(BytesIO(b"a\n" + long + b"\nlast")))
    assert [line.number for line in lines] == [1, 2, 3, 4]
    assert [line.value for line in lines] == [b"a\n", b"y" * MAX_LINE, b"\n", b"last"]
    assert [line.is_cut for line in lines] == [False, True, False, False]
    assert [line.end for line in lines] == [2, 2 + len(long), 3 + len(long), 7 + len(long)]


@pytest.mark.parametrize("field", ["units", "place_id", "observed_at"])
def test_a_lone_surrogate_does_not_end_the_lines(field: str) -> None:
    bad = json.dumps(CONTENT | {field: "\ud800"}).encode()
    reject, weather = read(bad + b"\n" + GOOD + b"\n")
    assert isinstance(reject, Reject)
    assert reject.value == bad
    assert isinstance(weather, Weather)
