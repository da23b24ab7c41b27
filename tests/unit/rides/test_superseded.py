"""Windows of reprocessing, and the marks of copies."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import ConfigurationError
from jobs.kafka.dead_letter import Headers
from jobs.rides.ops.reprocess import parse_window
from jobs.rides.ops.superseded import Mark, Superseded, add_mark, format_positions, parse_positions, read_mark


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-01-05", "2026-01-05T00:00:00.000000Z"),
        ("2026-01-05T08:00:00Z", "2026-01-05T08:00:00.000000Z"),
        ("2026-01-05t08:00:00.5z", "2026-01-05T08:00:00.500000Z"),
        ("2026-01-05T08:00:00+02:00", "2026-01-05T06:00:00.000000Z"),
        ("0001-01-01", "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_windows_are_normalised_to_utc(text: str, canonical: str) -> None:
    assert parse_window(text, "9999-01-01").start == canonical
    assert str(parse_window(text, "9999-01-01")) == f"FROM={canonical} TO=9999-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("text", ["yesterday", "2026-01-05T08:00:00", "2026-13-01", "2026-01-05 08:00:00Z", "", "1"])
def test_a_time_without_offset_is_rejected(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"FROM={text!r} is invalid. Give a date"):
        parse_window(text, "9999-01-01")
    with pytest.raises(ConfigurationError, match=f"TO={text!r}"):
        parse_window("2026-01-01", text)


def test_a_window_must_start_before_its_end() -> None:
    for end in ("2026-01-05", "2026-01-04T23:59:59Z", "2026-01-05T01:00:00+02:00"):
        with pytest.raises(ConfigurationError, match="is empty: FROM must be before TO"):
            parse_window("2026-01-05", end)


def test_marks_are_read_back_and_replace_older_marks() -> None:
    own: Headers = [("trace", b"\x00\xff"), ("trace", None)]
    first = Mark((3, 17), format_positions({0: 5, 3: 9}))
    headers = add_mark(own, first)
    assert headers[:2] == own
    assert read_mark(headers) == first
    second = Mark((3, 40), format_positions({0: 50, 3: 90}))
    assert read_mark(add_mark(headers, second)) == second
    assert len(add_mark(headers, second)) == len(headers)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [("datastream.reprocessed", b"3:17")],
        [("datastream.reprocessed", b"3:17"), ("datastream.supersedes", b"")],
        [("datastream.reprocessed", b"3:17,4:1"), ("datastream.supersedes", b"0:1")],
        [("datastream.reprocessed", b"\xff"), ("datastream.supersedes", None)],
    ],
)
def test_incomplete_or_invalid_marks_are_ignored(headers: Headers | None) -> None:
    assert read_mark(headers) is None


def test_positions_are_formatted_and_parsed() -> None:
    assert format_positions({5: 1, 0: 12}) == "0:12,5:1"
    assert parse_positions("0:12,5:1") == {0: 12, 5: 1}


def test_superseded_results_are_found_by_ride_and_offset() -> None:
    a, b, c = (bytes([letter]) * 16 for letter in b"abc")
    superseded = Superseded()
    rides = pa.array([a, a, a, b, b, c], pa.binary(16))
    partitions, offsets = np.array([0, 0, 1, 0, 0, 0]), np.array([4, 5, 4, 9, 20, 4])
    assert superseded.covers(rides, partitions, offsets).tolist() == [False] * 6
    superseded.add(Mark((0, 1), "0:5"), a)
    assert superseded.covers(rides, partitions, offsets).tolist() == [True, False, False, False, False, False]
    superseded.add(Mark((0, 9), "0:10,1:5"), a)
    superseded.add(Mark((0, 9), "0:10,1:5"), b)
    assert superseded.covers(rides, partitions, offsets).tolist() == [True, True, True, True, False, False]
