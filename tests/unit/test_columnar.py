"""Which messages are read column-wise, and that they are read as `parse_ride` reads them."""

from __future__ import annotations

import calendar
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.rides import columnar
from jobs.rides.columnar import NUMBERS, RIDES_SCHEMA
from jobs.rides.distance import haversine
from jobs.rides.pricing import price
from tests.helpers import encode, result, result_values, ride


def compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def array(*values: bytes) -> pa.BinaryArray:
    return pa.array(values, pa.binary())


def results(values: pa.BinaryArray) -> list[bytes | None]:
    return result_values(values, price(values, haversine))


def reordered(content: dict[str, Any]) -> dict[str, Any]:
    """The same ride, its members the other way round at both levels."""
    return {
        name: dict(reversed(value.items())) if isinstance(value, dict) else value
        for name, value in reversed(content.items())
    }


def test_a_canonical_message_is_how_its_result_begins() -> None:
    values = array(*(compact(ride()) for _ in range(5)))
    assert columnar.is_canonical(values).true_count == 5
    for value, priced in zip(values.to_pylist(), results(values), strict=True):
        assert priced is not None
        assert priced.startswith(value[:-1] + b',"distance_km":')


@given(st.decimals(min_value=0, max_value=10**7, places=9).map(lambda it: it.normalize()))
def test_a_number_that_is_canonical_is_printed_so(number: Decimal) -> None:
    text = f"{number:f}"
    content = compact(ride()).replace(b"31.5", text.encode())
    if columnar.is_canonical(array(content)).true_count:
        assert pc.cast(pa.scalar(float(text)), pa.string()).as_py() == text


@pytest.mark.parametrize("text", ["7", "7.0", "0", "0.0", "150.0", "999999.0"])
def test_a_whole_number_may_have_a_zero_behind_its_point(text: str) -> None:
    content = compact(ride()).replace(b"31.5", text.encode())
    (value,) = results(array(content))
    assert value is not None
    assert value.startswith(content[:-1] + b',"distance_km":')


@pytest.mark.parametrize("text", ["1.00", "0.50", "01", "-1", "1e5", "0.00001", "1234567", "1.0000000001"])
def test_a_number_that_would_be_printed_otherwise_is_not_canonical(text: str) -> None:
    assert columnar.is_canonical(array(compact(ride()).replace(b"31.5", text.encode()))).true_count == 0


def test_every_year_has_its_own_february() -> None:
    days = [f"{year:04d}-02-29" for year in range(10_000)]
    found = pc.match_substring_regex(
        pa.array([f"{day}T12:00:00.000000Z" for day in days]), f"^{columnar.CANONICAL_TIMESTAMP}$"
    )
    wanted = [year > 0 and calendar.isleap(year) for year in range(10_000)]
    assert found.to_pylist() == wanted


@pytest.mark.parametrize("write", [encode, lambda it: compact(reordered(it)), lambda it: encode(reordered(it))])
def test_a_plain_message_has_the_result_of_a_canonical_one(write: Callable[[Any], bytes]) -> None:
    contents = [ride(comfort="eco", ts="2026-01-05T10:15:30+02:00") for _ in range(5)]
    values = array(*map(write, contents))
    assert columnar.is_canonical(values).true_count == 0
    assert columnar.is_plain(values).true_count == 5
    canonical = [content | {"comfort": "low", "ts": "2026-01-05T08:15:30.000000Z"} for content in contents]
    assert results(values) == results(array(*map(compact, canonical)))


def test_one_order_at_a_time_and_a_bad_first_message_is_passed_over() -> None:
    contents = [ride(comfort="eco") for _ in range(4)]
    values = array(b"bad", *map(encode, contents[:2]), *(encode(reordered(it)) for it in contents[2:]))
    assert columnar.is_plain(values).to_pylist() == [False, True, True, False, False]
    assert price(values, haversine).column("reason").null_count == 4


@pytest.mark.parametrize(
    "doubtful",
    [
        lambda text: text.replace(b'"comfort"', b'"comfort":"low","comfort"'),
        lambda text: text.replace(b'"lat"', b'"lat":1,"lat"', 1),
        lambda text: text.replace(b"31.5", b'"31.5"'),
        lambda text: text.replace(b"31.5", b"true"),
        lambda text: text.replace(b"31.5", b"NaN"),
        lambda text: text.replace(b"31.5", b"-0"),
        lambda text: text.replace(b"31.5", b"1e400"),
        lambda text: text.replace(b"31.5", b"1" * 400),
        lambda text: text.replace(b"31.5", b".5"),
        lambda text: text.replace(b"31.5", b"31."),
        lambda text: text.replace(b"medium", b"m\\u0065dium"),
        lambda text: text.replace(b"medium", b"medium\xff"),
        lambda text: text.replace(b"}", b',"note":1}', 1),
        lambda text: text + b"\n",
        lambda text: text + b"{}",
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b",", b"\n,", 1),
        lambda text: text[:-1],
        lambda _: b"",
    ],
)
def test_what_leaves_doubt_is_not_read_column_wise(doubtful: Callable[[bytes], bytes]) -> None:
    good = compact(ride())
    values = array(good, doubtful(good))
    assert columnar.is_canonical(values).to_pylist() == [True, False]
    assert columnar.is_plain(values).to_pylist() == [True, False]


def test_values_are_read_as_they_are() -> None:
    contents = [ride(duration_min=number) for number in (0, 0.1, 1e-7, 123456789012345.6, 5e98)]
    read = columnar.read_canonical(array(*map(compact, contents)))
    assert read.schema == RIDES_SCHEMA
    for row, content in zip(read.to_pylist(), contents, strict=True):
        flat = content | {
            f"{at}.{axis}": content[at][axis] for at in ("origin", "destination") for axis in ("lat", "lon")
        }
        assert row == {name: flat[name] for name in ("ride_id", "ts", "comfort", *NUMBERS)}


def test_the_two_readers_agree_also_on_a_part_of_an_array() -> None:
    contents = [ride(duration_min=number) for number in (0, 0.1, 31.5, 999999, 0.0001, 12345.6789)]
    values = array(*map(compact, contents))
    assert columnar.read_canonical(values).equals(columnar.read_plain(values))
    part = values.slice(2, 3)
    assert columnar.read_canonical(part).equals(columnar.read_plain(part))
    assert columnar.read_canonical(part).column("duration_min").to_pylist() == [31.5, 999999, 0.0001]


def test_messages_are_read_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    values = array(*(compact(ride(duration_min=number)) for number in range(10)))
    whole = columnar.read_canonical(values)
    monkeypatch.setattr(columnar, "_READ_AT_ONCE", 3)
    assert columnar.read_canonical(values).equals(whole)
    assert whole.column("duration_min").to_pylist() == list(range(10))


def test_results_are_read_as_they_are() -> None:
    contents = [result(distance_km=number, price_total=number / 3) for number in (0.0, 4.88816444136724, 20015.1)]
    values = array(*map(compact, contents))
    assert columnar.is_result(values).true_count == 3
    assert columnar.is_result(array(*map(encode, contents))).true_count == 0
    read = columnar.read_results(values)
    assert read.column("price_total").to_pylist() == [content["price_total"] for content in contents]


def test_places_are_on_earth() -> None:
    edges = [{"lat": 90, "lon": -180}, {"lat": -90, "lon": 180}, {"lat": 90.1, "lon": 0}, {"lat": 0, "lon": -180.1}]
    read = columnar.read_canonical(array(*(compact(ride(destination=point)) for point in edges)))
    assert columnar.has_places(read).to_pylist() == [True, True, False, False]


def test_no_messages() -> None:
    none = pa.array([], pa.binary())
    assert len(columnar.is_canonical(none)) == len(columnar.is_plain(none)) == len(columnar.is_result(none)) == 0
    assert columnar.read_canonical(none).schema == RIDES_SCHEMA
