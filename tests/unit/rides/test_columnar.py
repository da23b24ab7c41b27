"""Rides as columns, and the patterns of normalised fields."""

from __future__ import annotations

import calendar

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.rides.columnar import IS_RIDE_ID, IS_TIMESTAMP, RIDES_SCHEMA, make_columns
from jobs.rides.contract import parse_ride
from tests.testkit.rides import encode, ride


def test_columns_hold_the_values_of_the_rides() -> None:
    contents = [ride(duration_min=number) for number in (0, 0.1, 1e-7, 123456789012345.6, 5e98, -0.0)]
    made = make_columns([parse_ride(encode(content)) for content in contents], RIDES_SCHEMA)
    assert made.schema == RIDES_SCHEMA
    for row, content in zip(made.to_pylist(), contents, strict=True):
        flat = content | {
            f"{place}.{axis}": content[place][axis] for place in ("origin", "destination") for axis in ("lat", "lon")
        }
        assert row == {name: flat[name] for name in RIDES_SCHEMA.names}


def test_no_rides_give_an_empty_batch() -> None:
    assert make_columns([], RIDES_SCHEMA).equals(pa.RecordBatch.from_pylist([], RIDES_SCHEMA))


def test_leap_days_are_valid_only_in_leap_years() -> None:
    times = [f"{year:04d}-02-29T12:00:00.000000Z" for year in range(10_000)]
    expected = [year > 0 and calendar.isleap(year) for year in range(10_000)]
    assert pc.match_substring_regex(pa.array(times), IS_TIMESTAMP).to_pylist() == expected


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (IS_TIMESTAMP, "2026-01-05T08:15:30.123456Z"),
        (IS_RIDE_ID, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ],
)
def test_patterns_match_the_whole_text(expression: str, text: str) -> None:
    texts = [text, f" {text}", f"{text}\n", f"{text}0", text.upper(), text[1:], ""]
    matches = pc.match_substring_regex(pa.array(texts), expression).to_pylist()
    assert matches == [True, False, False, False, text.upper() == text, False, False]
