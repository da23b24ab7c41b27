"""Headers of dead letters: Kafka Connect's names, length limits, and the replay count."""

from __future__ import annotations

import pyarrow as pa
import pytest

from jobs.kafka.dead_letter import (
    REPLAYED,
    Headers,
    Origin,
    count_replays,
    make_replay_headers,
    read_error,
    read_position,
)
from jobs.kafka.publish import make_error_headers
from jobs.kafka.staged import REJECT_SCHEMA

P = "__connect.errors."


def errors(*rows: tuple[int, str, str, str | None]) -> list[Headers]:
    names = ("offset", "reason", "message", "stacktrace")
    columns = pa.schema([REJECT_SCHEMA.field(name) for name in names])
    return make_error_headers(pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows], columns))


def error(reason: str, message: str, stacktrace: str | None = None) -> Headers:
    (headers,) = errors((42, reason, message, stacktrace))
    return headers


def test_headers_have_the_names_of_kip_298() -> None:
    origin = Origin("rides_raw", 3, "dag_compute_cost", "ComputeCostTravel", "TRANSFORMATION")
    assert origin.headers == [
        (P + "topic", b"rides_raw"),
        (P + "partition", b"3"),
        (P + "connector.name", b"dag_compute_cost"),
        (P + "task.id", b"ComputeCostTravel"),
        (P + "stage", b"TRANSFORMATION"),
    ]
    assert error("missing_field", "ts is missing") == [
        (P + "offset", b"42"),
        (P + "exception.class.name", b"missing_field"),
        (P + "exception.message", b"ts is missing"),
    ]


def test_each_row_has_its_own_error_headers() -> None:
    first, second, third = errors((7, "empty_value", "a", None), (8, "unexpected", "b", "trace"), (9, "x", "c", None))
    assert [headers[0] for headers in (first, second, third)] == [(P + "offset", b"%d" % n) for n in (7, 8, 9)]
    assert second[-1] == (P + "exception.stacktrace", b"trace")
    assert [len(first), len(second), len(third)] == [3, 4, 3]
    assert errors() == []


def test_long_messages_lose_their_end_and_stack_traces_their_start() -> None:
    headers = dict(error("unexpected", "first" + "é" * 100_000, "é" * 100_000 + "last line"))
    message, trace = ((headers[P + f"exception.{name}"] or b"").decode() for name in ("message", "stacktrace"))
    assert (len(message), message[:6]) == (1000, "firsté")
    assert (len(trace), trace[-10:]) == (8000, "élast line")


def test_the_latest_error_is_read() -> None:
    headers = [*error("wrong_type", "then"), *error("missing_field", "now")]
    assert read_error(headers, "exception.class.name") == "missing_field"
    assert read_error(headers, "exception.message") == "now"
    assert read_error(headers, "exception.stacktrace") == ""
    assert read_error(None, "stage") == ""
    assert read_error([(P + "stage", None)], "stage") == ""
    assert read_error([(P + "stage", b"\xff")], "stage") == "�"


@pytest.mark.parametrize(
    ("partition", "offset", "position"),
    [
        ("5", "15951749123", (5, 15_951_749_123)),
        ("5", "", None),
        ("x", "1", None),
        ("-1", "1", None),
        ("²", "٣", None),
        ("5", "9" * 5_000, None),  # int() refuses it
        ("5", str(2**48), None),
        ("32768", "1", None),
    ],
)
def test_a_position_of_a_foreign_dead_letter_may_be_any_text(
    partition: str, offset: str, position: tuple[int, int] | None
) -> None:
    assert read_position([(P + "partition", partition.encode()), (P + "offset", offset.encode())]) == position
    assert read_position(None) is None


def test_a_replay_replaces_error_headers_with_a_replay_count() -> None:
    own = [("trace", b"1"), ("trace", b"2"), ("empty", b""), ("null", None)]
    once = make_replay_headers([*own, *error("wrong_type", "why", "trace")])
    assert once == [*own, (REPLAYED, b"1")]
    assert make_replay_headers([*once, *error("wrong_type", "again")]) == [*own, (REPLAYED, b"2")]
    assert make_replay_headers(None) == [(REPLAYED, b"1")]


@pytest.mark.parametrize(
    ("headers", "times"),
    [
        (None, 0),
        ([], 0),
        ([("other", b"5")], 0),
        ([(REPLAYED, b"3")], 3),
        ([(REPLAYED, b"1"), (REPLAYED, b"4")], 4),
        ([(REPLAYED, b"often")], 1),
        ([(REPLAYED, b"")], 1),
        ([(REPLAYED, None)], 1),
        ([(REPLAYED, b"-1")], 1),
    ],
)
def test_the_replay_count_is_read_from_headers(headers: list[tuple[str, bytes | None]] | None, times: int) -> None:
    assert count_replays(headers) == times
