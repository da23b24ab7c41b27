"""Names and contents of Parquet objects, and lines of bulk requests. tests/integration has the tests with services."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import product

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.kafka.staged import Chunk
from jobs.sinks.elasticsearch import make_bulk_lines
from jobs.sinks.parquet import join, name_object, split_by_hour

CHUNK = Chunk(partition=3, first=1200, last=1299, records=100, size=20_000, url="")


@pytest.mark.parametrize(
    ("prefix", "joined"),
    [
        ("rides/processed/", "rides/processed/x"),
        ("rides/processed", "rides/processed/x"),
        ("/rides/processed//", "rides/processed/x"),
        ("rides", "rides/x"),
        ("/", "x"),
        ("", "x"),
    ],
)
def test_a_prefix_is_joined_with_exactly_one_slash(prefix: str, joined: str) -> None:
    assert join(prefix, "x") == joined


def test_an_object_name_holds_hour_topic_partition_and_offsets() -> None:
    assert name_object("rides/processed/", "rides_result", CHUNK, "2026/01/05/08") == (
        "rides/processed/2026/01/05/08/rides_result-00003-00000000000000001200-00000000000000001299.parquet"
    )


def test_different_contents_have_different_names() -> None:
    chunks = [
        Chunk(partition, first, last, 1, 200, "")
        for partition, first, last in product((0, 1, 10), (0, 1, 100), (100, 101, 2**60))
    ]
    names = {
        name_object("p", topic, chunk, hour)
        for topic, chunk, hour in product(("a", "b"), chunks, ("2026/01/05/08", "2026/01/05/09"))
    }
    assert len(names) == 2 * len(chunks) * 2


def test_names_sort_like_offsets() -> None:
    firsts = [0, 9, 10, 99, 100, 12345, 2**62]
    names = [name_object("p", "t", Chunk(0, first, first, 1, 200, ""), "2026/01/05/08") for first in firsts]
    assert names == sorted(names)


def rows(times: list[datetime]) -> pa.RecordBatch:
    return pa.record_batch(
        {"ts": pa.array(times, pa.timestamp("us", "UTC")), "kafka_offset": pa.array(range(len(times)), pa.int64())}
    )


@pytest.mark.parametrize(
    ("ts", "path"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), "0001/01/01/00"),
        (datetime(1, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "0001/12/31/23"),
        (datetime(999, 2, 3, 4, 5, tzinfo=UTC), "0999/02/03/04"),
        (datetime(1582, 10, 15, tzinfo=UTC), "1582/10/15/00"),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "1969/12/31/23"),
        (datetime(1970, 1, 1, tzinfo=UTC), "1970/01/01/00"),
        (datetime(2024, 2, 29, 12, 59, 59, 999999, tzinfo=UTC), "2024/02/29/12"),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "9999/12/31/23"),
    ],
)
def test_the_path_is_the_hour_of_the_ride(ts: datetime, path: str) -> None:
    ((folder, part),) = split_by_hour(rows([ts]))
    assert folder == path
    assert part.column("ts").to_pylist() == [ts]


@settings(max_examples=100, deadline=None)
@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.lists(st.integers(-3 * 3_600_000_000, 3 * 3_600_000_000), max_size=20),
)
def test_each_ride_is_in_one_object_of_its_hour(start: datetime, shifts: list[int]) -> None:
    times = [start.replace(tzinfo=UTC) + timedelta(microseconds=shift) for shift in shifts]
    parts = list(split_by_hour(rows(times)))
    assert len({path for path, _ in parts}) == len(parts)
    seen = []
    for path, part in parts:
        offsets = part.column("kafka_offset").to_pylist()
        assert offsets == sorted(offsets)
        seen += offsets
        for ts in part.column("ts").to_pylist():
            assert path == f"{ts.year:04d}/{ts.month:02d}/{ts.day:02d}/{ts.hour:02d}"
    assert sorted(seen) == list(range(len(times)))


def test_each_document_has_two_bulk_lines() -> None:
    texts = make_bulk_lines(
        pa.array(["a", "b"]), pa.array([7, 2**60], pa.int64()), pa.array(['{"x":1}', "{}"])
    ).to_pylist()
    lines = "".join(texts).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"index": {"_id": "a", "version": 7, "version_type": "external_gte"}},
        {"x": 1},
        {"index": {"_id": "b", "version": 2**60, "version_type": "external_gte"}},
        {},
    ]
    assert all(text.endswith("\n") for text in texts)


def test_no_documents_give_no_bulk_lines() -> None:
    none = pa.array([], pa.string())
    assert make_bulk_lines(none, pa.array([], pa.int64()), none).to_pylist() == []
