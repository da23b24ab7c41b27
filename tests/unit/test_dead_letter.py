"""Headers of dead letters: Kafka Connect's names, caps, and the mark of a replay."""

from __future__ import annotations

import pytest

from jobs.kafka.dead_letter import REPLAYED, Origin, error_headers, error_text, replay_headers, times_replayed

ORIGIN = Origin("rides_raw", 3, "dag_compute_cost", "ComputeCostTravel", "TRANSFORMATION")
P = "__connect.errors."


def test_names_of_kip_298() -> None:
    assert error_headers(ORIGIN, 42, "missing_field", "ts is missing") == [
        (P + "topic", b"rides_raw"),
        (P + "partition", b"3"),
        (P + "connector.name", b"dag_compute_cost"),
        (P + "task.id", b"ComputeCostTravel"),
        (P + "stage", b"TRANSFORMATION"),
        (P + "offset", b"42"),
        (P + "exception.class.name", b"missing_field"),
        (P + "exception.message", b"ts is missing"),
    ]


def test_a_stack_trace_only_where_there_is_one() -> None:
    assert error_headers(ORIGIN, 42, "unexpected", "why", "trace")[-1] == (P + "exception.stacktrace", b"trace")


def test_long_texts_are_cut_where_they_say_least() -> None:
    headers = dict(error_headers(ORIGIN, 42, "unexpected", "first" + "x" * 100_000, "x" * 100_000 + "last line"))
    message, trace = headers[P + "exception.message"], headers[P + "exception.stacktrace"]
    assert (len(message), message[:5]) == (1000, b"first")
    assert (len(trace), trace[-9:]) == (8000, b"last line")


def test_text_that_is_not_ascii_or_not_even_text() -> None:
    headers = dict(error_headers(ORIGIN, 42, "unknown_comfort", "é\ud800"))
    assert headers[P + "exception.message"].decode() == "é\\ud800"


def test_the_latest_error_counts() -> None:
    headers = [*error_headers(ORIGIN, 42, "wrong_type", "then"), *error_headers(ORIGIN, 42, "missing_field", "now")]
    assert error_text(headers, "exception.class.name") == "missing_field"
    assert error_text(headers, "exception.message") == "now"
    assert error_text(headers, "exception.stacktrace") == ""
    assert error_text(None, "stage") == ""
    assert error_text([(P + "stage", None)], "stage") == ""
    assert error_text([(P + "stage", b"\xff")], "stage") == "�"


def test_a_replay_takes_the_error_away_and_leaves_a_mark() -> None:
    own = [("trace", b"1"), ("trace", b"2"), ("empty", b""), ("null", None)]
    once = replay_headers([*own, *error_headers(ORIGIN, 42, "wrong_type", "why", "trace")])
    assert once == [*own, (REPLAYED, b"1")]
    assert replay_headers([*once, *error_headers(ORIGIN, 42, "wrong_type", "again")]) == [*own, (REPLAYED, b"2")]
    assert replay_headers(None) == [(REPLAYED, b"1")]


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
def test_how_often_a_message_was_replayed(headers: list[tuple[str, bytes | None]] | None, times: int) -> None:
    assert times_replayed(headers) == times
