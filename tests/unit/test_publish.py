"""What is published together, and what of a chunk: the rest of it, whatever the batches of its two files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.files import Folder
from jobs.kafka.publish import _results, _uncovered, grouped
from jobs.kafka.staged import MESSAGE_SCHEMA, OUTCOME_SCHEMA, Chunk

HEADERS = [{"key": "trace", "value": b"\x00\xff"}, {"key": "trace", "value": None}]
# The message, its outcome and, unless it is rejected, the result. Offset 6 is a transaction marker.
ROWS: list[tuple[dict[str, Any], dict[str, Any], bytes | None]] = [
    ({"offset": 3, "value": b"{}"}, {"key": b"a", "extends": True, "added": b",1}"}, b"{,1}"),
    ({"offset": 4, "value": b"one", "key": b"k"}, {"key": b"b", "extends": False, "added": b"two"}, b"two"),
    ({"offset": 5, "value": None, "headers": HEADERS}, {"reason": "empty_value", "message": "no value"}, None),
    ({"offset": 7, "value": b"", "key": b"", "headers": []}, {"reason": "empty_value", "message": "no value"}, None),
    ({"offset": 8, "value": b"{ }"}, {"key": b"c", "extends": True, "added": b"}"}, b"{ }"),
    ({"offset": 9, "value": b"\xff"}, {"reason": "invalid_utf8", "message": "no", "stacktrace": "at"}, None),
    ({"offset": 10, "value": b"{}"}, {"key": b"d", "extends": True, "added": b"}"}, b"{}"),
]


def chunk(tmp_path: Path, message_cuts: list[int], outcome_cuts: list[int]) -> Chunk:
    folder = Folder(tmp_path.as_uri())

    def write(name: str, rows: list[dict[str, Any]], cuts: list[int], schema: pa.Schema) -> str:
        whole = pa.RecordBatch.from_pylist(rows, schema)
        edges = [0, *cuts, len(rows)]
        batches = [whole.slice(begin, end - begin) for begin, end in pairwise(edges)]
        return folder.write_table(name, batches, schema)

    messages = write("messages", [message for message, _, _ in ROWS], message_cuts, MESSAGE_SCHEMA)
    outcomes = write("outcomes", [outcome for _, outcome, _ in ROWS], outcome_cuts, OUTCOME_SCHEMA)
    return Chunk(0, first=3, last=10, records=len(ROWS), size=50, url=outcomes, messages_url=messages)


@pytest.mark.parametrize("cuts", [([], []), ([1, 4], [3]), ([2], [1, 2, 3, 6]), ([5, 6], [])])
@pytest.mark.parametrize("committed", [None, 3, 4, 6, 7, 10, 11])
def test_the_rest_of_a_chunk(tmp_path: Path, cuts: tuple[list[int], list[int]], committed: int | None) -> None:
    pieces = _uncovered(chunk(tmp_path, *cuts), committed).to_batches(2)
    left = [row for row in ROWS if committed is None or row[0]["offset"] >= committed]
    results = [result for piece in pieces for result in _results(piece)]
    assert results == [{"key": outcome["key"], "value": value} for _, outcome, value in left if value is not None]
    rejects = [reject for piece in pieces for reject in piece.filter(piece["reason"].is_valid()).to_pylist()]
    names = ("offset", "key", "value", "headers")
    wanted = [
        {name: message.get(name) for name in names} | outcome for message, outcome, value in left if value is None
    ]
    assert [{name: reject[name] for name in of} for of, reject in zip(wanted, rejects, strict=True)] == wanted


def test_an_outcome_that_is_neither_result_nor_reject_is_refused(tmp_path: Path) -> None:
    broken = chunk(tmp_path, [], [])
    lost = pa.RecordBatch.from_pylist([{"key": b"a"}] * len(ROWS), OUTCOME_SCHEMA)
    Folder(tmp_path.as_uri()).write_table("outcomes", [lost], OUTCOME_SCHEMA)
    with pytest.raises(ValueError, match="neither a value nor a reason"):
        _uncovered(broken, None)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 120)), max_size=20), st.integers(1, 20), st.integers(1, 200)
)
def test_chunks_share_a_transaction_within_the_limits_of_one(
    sizes: list[tuple[int, int]], max_records: int, max_bytes: int
) -> None:
    chunks = [Chunk(number, 0, records, records, size, "") for number, (records, size) in enumerate(sizes)]
    groups = list(grouped(chunks, max_records, max_bytes))

    def fits(group: list[Chunk]) -> bool:
        within = sum(chunk.records for chunk in group) <= max_records
        return within and sum(chunk.size for chunk in group) <= max_bytes

    assert [chunk for group in groups for chunk in group] == chunks
    assert all(fits(group) or len(group) == 1 for group in groups)
    assert not any(fits([*group, following[0]]) for group, following in pairwise(groups))
