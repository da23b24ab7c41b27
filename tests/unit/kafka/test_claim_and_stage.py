"""Start and end of claims, and borders of chunks. tests/integration has the tests with a broker."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import OffsetsError
from jobs.kafka.claim import choose_starting_offsets, limit_claims
from jobs.kafka.offsets import Bounds, Committed
from jobs.kafka.scan import _split_at
from jobs.kafka.stage import cut_chunks
from jobs.kafka.staged import MESSAGE_SCHEMA, make_message_batch

often = settings(max_examples=200, deadline=None)


def message(
    offset: int, content: bytes | None = b"value", name: bytes | None = None, fault: KafkaError | None = None
) -> Message:
    """A message of the client's class, as a consumer returns it."""
    return Message(
        topic="raw",
        partition=0,
        offset=offset,
        timestamp=(1, 1000 + offset),
        key=name,
        value=content,
        headers=[("number", b"%d" % offset), ("nothing", None)] if offset % 2 else None,
        error=fault,
    )


class Cut(NamedTuple):
    first: int
    last: int
    records: int
    size: int
    rows: list[dict[str, Any]]


def cuts(arriving: list[list[Message]], max_records: int, max_bytes: int) -> list[Cut]:
    arriving_batches = map(make_message_batch, arriving)
    return [
        Cut(first, last, records, bytes_, [row for batch in batches for row in batch.to_pylist()])
        for first, last, records, bytes_, batches in cut_chunks(arriving_batches, max_records, max_bytes)
    ]


def size(counted: Message) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in counted.headers() or [])
    return len(counted.value() or b"") + len(counted.key() or b"") + headers


@st.composite
def streams(draw: Any) -> list[Message]:
    """Messages with gaps in their offsets, like those of markers and aborted messages."""
    gaps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=40))
    offsets = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    content = st.one_of(st.none(), st.integers(0, 30).map(lambda length: b"x" * length))
    return [message(offset, draw(content), draw(content)) for offset in offsets]


def split(messages: list[Message], borders: list[int]) -> list[list[Message]]:
    edges = [0, *sorted(borders), len(messages)]
    return [messages[a:b] for a, b in itertools.pairwise(edges) if a < b]


@often
@given(streams(), st.lists(st.integers(0, 40), max_size=6), st.integers(1, 12), st.integers(1, 120))
def test_chunk_borders_depend_only_on_the_messages(
    messages: list[Message], borders: list[int], max_records: int, max_bytes: int
) -> None:
    at_once = cuts([messages], max_records, max_bytes)
    assert cuts(split(messages, borders), max_records, max_bytes) == at_once
    assert cuts([[message] for message in messages], max_records, max_bytes) == at_once

    # Every message is in one chunk, in order and as it was.
    rows = [row for chunk in at_once for row in chunk.rows]
    assert [row["offset"] for row in rows] == [message.offset() for message in messages]
    assert [(row["key"], row["value"], row["timestamp"]) for row in rows] == [
        (message.key(), message.value(), 1000 + message.offset()) for message in messages
    ]
    # A chunk ends with the message that reaches a limit, and only there.
    for number, chunk in enumerate(at_once):
        own = [message for message in messages if chunk.first <= message.offset() <= chunk.last]
        assert (chunk.first, chunk.last, chunk.records) == (own[0].offset(), own[-1].offset(), len(own))
        assert chunk.size == sum(map(size, own))
        assert len(own) <= max_records
        assert sum(map(size, own[:-1])) < max_bytes
        if number < len(at_once) - 1:
            assert len(own) == max_records or sum(map(size, own)) >= max_bytes


@often
@given(streams(), st.integers(1, 12), st.integers(1, 120), st.data())
def test_later_messages_do_not_move_chunk_borders(
    messages: list[Message], max_records: int, max_bytes: int, data: Any
) -> None:
    held = data.draw(st.integers(0, len(messages)))
    before = cuts([messages[:held]], max_records, max_bytes)
    assert cuts([messages], max_records, max_bytes)[: max(len(before) - 1, 0)] == before[:-1]


def test_headers_are_staged_unchanged() -> None:
    (chunk,) = cuts([[message(4), message(5)]], 10, 1000)
    assert [row["headers"] for row in chunk.rows] == [
        None,
        [{"key": "number", "value": b"5"}, {"key": "nothing", "value": None}],
    ]


def test_a_message_larger_than_the_limit_ends_its_chunk() -> None:
    chunks = cuts([[message(1, b"x"), message(2, b"x" * 500), message(3, b"x")]], 10, 100)
    assert [(chunk.first, chunk.last) for chunk in chunks] == [(1, 2), (3, 3)]


def test_no_messages_give_no_chunks() -> None:
    assert cuts([], 10, 100) == []
    assert cuts([[]], 10, 100) == []


def test_staged_batches_have_the_message_schema() -> None:
    ((*_, batches),) = cut_chunks([make_message_batch([message(1), message(2, None)])], 10, 100)
    assert {batch.schema for batch in batches} == {MESSAGE_SCHEMA}


# --- Claims ---------------------------------------------------------------------------------------


@often
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), min_size=1, max_size=8), st.integers(1, 3000))
def test_a_claim_is_bounded_and_shared_fairly_between_partitions(partitions: list[tuple[int, int]], most: int) -> None:
    starts = {number: start for number, (start, _) in enumerate(partitions)}
    bounds = {number: Bounds(0, start + backlog, start + backlog) for number, (start, backlog) in enumerate(partitions)}
    claims = limit_claims(starts, bounds, most)
    assert [claim.partition for claim in claims] == list(starts)
    taken = {claim.partition: claim.end - claim.start for claim in claims}
    backlogs = {number: backlog for number, (_, backlog) in enumerate(partitions)}
    assert all(claim.start == starts[claim.partition] for claim in claims)
    assert all(0 <= taken[number] <= backlogs[number] for number in taken)
    assert sum(taken.values()) == min(most, sum(backlogs.values()))
    # No partition waits while another one gets more.
    left_over = [taken[number] for number in taken if taken[number] < backlogs[number]]
    assert all(max(taken.values()) - count <= 1 for count in left_over)


def at(*offsets: int | None) -> dict[int, Committed]:
    return {number: Committed(offset) for number, offset in enumerate(offsets)}


def test_a_claim_starts_at_the_committed_offsets() -> None:
    bounds = {0: Bounds(3, 9, 9), 1: Bounds(0, 4, 4), 2: Bounds(2, 2, 2)}
    assert choose_starting_offsets("raw", "group", at(5, 4, 2), bounds, has_output=True) == {0: 5, 1: 4, 2: 2}
    assert choose_starting_offsets("raw", "group", at(3, 0, 2), bounds, has_output=False) == {0: 3, 1: 0, 2: 2}


def test_a_new_group_starts_at_the_beginning_unless_its_output_exists() -> None:
    bounds = {0: Bounds(3, 9, 9), 1: Bounds(0, 4, 4)}
    assert choose_starting_offsets("raw", "group", at(None, None), bounds, has_output=False) == {0: 3, 1: 0}
    with pytest.raises(OffsetsError, match=r"group has no committed offsets on raw.*docs/runbook_kafka.md"):
        choose_starting_offsets("raw", "group", at(None, None), bounds, has_output=True)


def test_a_new_partition_starts_at_its_beginning() -> None:
    assert choose_starting_offsets(
        "raw", "g", at(5, None), {0: Bounds(0, 9, 9), 1: Bounds(2, 4, 4)}, has_output=True
    ) == {
        0: 5,
        1: 2,
    }


def _fault(code: int) -> KafkaError:
    return KafkaError(code)


def until(end: int, *batch: Message) -> tuple[list[int], bool]:
    messages, ended = _split_at(end, cast("list[Any]", list(batch)))
    return [each.offset() for each in messages], ended


def test_reading_ends_at_the_claimed_offset_or_the_end_of_the_partition() -> None:
    eof = KafkaError._PARTITION_EOF
    assert until(10, message(3), message(8)) == ([3, 8], False)
    assert until(10, message(8), message(9), message(10)) == ([8, 9], True)
    assert until(10, message(8), message(12)) == ([8], True)  # 9 is a marker
    assert until(10, message(8), message(10, fault=_fault(eof))) == ([8], True)
    assert until(10, message(8), message(9, fault=_fault(eof))) == ([8], False)
    assert until(10, message(11, fault=_fault(eof))) == ([], True)
    with pytest.raises(KafkaException):
        until(10, message(8), message(9, fault=_fault(KafkaError._ALL_BROKERS_DOWN)))
