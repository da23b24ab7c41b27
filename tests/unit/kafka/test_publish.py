"""Which chunks share a transaction, and which outcomes of a chunk are published."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import ConfigurationError
from jobs.files import Folder
from jobs.kafka.publish import Outlet, _list_results, _read_uncovered, group_chunks, publish
from jobs.kafka.scan import Claim
from jobs.kafka.staged import OUTCOME_SCHEMA, Chunk, Manifest

HEADERS = [{"key": "trace", "value": b"\x00\xff"}, {"key": "trace", "value": None}]
NO_VALUE = {"reason": "empty_value", "message": "no value"}
# Outcomes; those with a reason are rejects. Offset 6 is a transaction marker.
ROWS: list[dict[str, Any]] = [
    {"offset": 3, "key": b"a", "value": b"{,1}"},
    {"offset": 4, "key": b"b", "value": b"two"},
    {"offset": 5, "value": None, "headers": HEADERS, **NO_VALUE},
    {"offset": 7, "key": b"", "value": b"", "headers": [], **NO_VALUE},
    {"offset": 8, "key": None, "value": b""},
    {"offset": 9, "value": b"\xff", "reason": "invalid_utf8", "message": "no", "stacktrace": "at"},
    {"offset": 10, "key": b"d", "value": b"{}"},
]


def chunk(tmp_path: Path, rows: list[dict[str, Any]], cuts: list[int]) -> Chunk:
    whole = pa.RecordBatch.from_pylist(rows, OUTCOME_SCHEMA)
    batches = [whole.slice(begin, end - begin) for begin, end in pairwise([0, *cuts, len(rows)])]
    url = Folder(tmp_path.as_uri()).write_table("outcomes", batches, OUTCOME_SCHEMA)
    return Chunk(0, first=3, last=10, records=len(rows), size=50, url=url)


@pytest.mark.parametrize("cuts", [[], [3], [1, 4], [1, 2, 3, 6]])
@pytest.mark.parametrize("committed", [None, 3, 4, 6, 7, 10, 11])
def test_only_uncommitted_outcomes_of_a_chunk_are_published(
    tmp_path: Path, cuts: list[int], committed: int | None
) -> None:
    pieces = _read_uncovered(chunk(tmp_path, ROWS, cuts), committed).to_batches(2)
    left = [row for row in ROWS if committed is None or row["offset"] >= committed]
    results = [result for piece in pieces for result in _list_results(piece)]
    assert results == [{"key": row["key"], "value": row["value"]} for row in left if "reason" not in row]
    rejects = [reject for piece in pieces for reject in piece.filter(piece["reason"].is_valid()).to_pylist()]
    empty = dict.fromkeys(OUTCOME_SCHEMA.names)
    assert rejects == [empty | row for row in left if "reason" in row]


def test_an_outcome_without_value_and_reason_is_rejected(tmp_path: Path) -> None:
    broken = chunk(tmp_path, [*ROWS, {"offset": 11, "key": b"a"}], [])
    with pytest.raises(ValueError, match="neither a value nor a reason"):
        _read_uncovered(broken, None)


def test_a_claim_without_outcomes_is_not_published() -> None:
    """It has no chunks, so its ends would be committed without its messages."""
    claimed = Manifest("raw", "id", "group", (Claim(0, 3, 3), Claim(1, 5, 10)), (), 50, 2**20, is_staged=False)
    outlet = Outlet("result", "dlq", "dag", "task", "TRANSFORMATION")
    with pytest.raises(ConfigurationError, match=r"raw: .* was not processed\. Nothing was committed"):
        publish({"bootstrap.servers": "127.0.0.1:1"}, claimed, outlet)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 120)), max_size=20), st.integers(1, 20), st.integers(1, 200)
)
def test_chunks_share_a_transaction_up_to_the_limits_of_one_chunk(
    sizes: list[tuple[int, int]], max_records: int, max_bytes: int
) -> None:
    chunks = [Chunk(number, 0, records, records, size, "") for number, (records, size) in enumerate(sizes)]
    groups = list(group_chunks(chunks, max_records, max_bytes))

    def fits(group: list[Chunk]) -> bool:
        has_room = sum(chunk.records for chunk in group) <= max_records
        return has_room and sum(chunk.size for chunk in group) <= max_bytes

    assert [chunk for group in groups for chunk in group] == chunks
    assert all(fits(group) or len(group) == 1 for group in groups)
    assert not any(fits([*group, following[0]]) for group, following in pairwise(groups))
