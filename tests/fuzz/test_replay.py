"""Any dead letter from our topics is replayed unchanged, up to the limit of replays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.kafka.dead_letter import read_headers
from jobs.kafka.replay import count_replayable, read_latest, replay
from jobs.rides.vertical import REPLAY_GROUP
from tests.fuzz.conftest import fuzzed
from tests.fuzz.librdkafka import produce_with_header
from tests.fuzz.messages import PARTITIONS, headers, keys
from tests.fuzz.tail import Tail, tail
from tests.testkit.kafka import Headers, Raw, Record, produce
from tests.testkit.stack import Stack

pytestmark = pytest.mark.timeout(3600)

TOPIC = "__connect.errors.topic"
CONNECTOR = "__connect.errors.connector.name"
DAGS = {"raw": "dag_compute_cost", "result": "dag_index_and_export"}
MARK = "datastream.replayed"
MAX_REPLAYS = 3
marks = st.sampled_from(
    [None, b"", b"0", b"1", b"2", b"3", b"007", b"-1", b"1.0", b" 1", b"\xb2", b"9" * 20, b"x", b"\xff"]
)


@pytest.fixture(scope="module")
def topics(stack: Stack, topic_factory: Callable[..., str]) -> Iterator[dict[str, tuple[str, Tail]]]:
    """Name and tail of the dead-letter topic and of each source topic."""
    with ExitStack() as tails:
        names = {prefix: topic_factory(prefix, PARTITIONS) for prefix in ("raw", "result", "dlq")}
        yield {prefix: (name, tails.enter_context(tail(stack.kafka, name))) for prefix, name in names.items()}


@fuzzed
@given(data=st.data())
def test_dead_letters_with_any_headers_are_replayed_or_kept(
    stack: Stack, topics: dict[str, tuple[str, Tail]], data: st.DataObject
) -> None:
    (raw, _), (result, _), (dlq, letters) = (topics[prefix] for prefix in ("raw", "result", "dlq"))
    of_errors = st.tuples(
        st.just(TOPIC), st.sampled_from([raw.encode(), result.encode(), dlq.encode(), b"", b"\xff", None, b"nowhere"])
    )
    of_connectors = st.tuples(
        st.just(CONNECTOR), st.sampled_from([*(dag.encode() for dag in DAGS.values()), b"somebody-elses", b"", None])
    )
    any_headers = st.builds(
        lambda *parts: [header for part in parts for header in part or []],
        headers,
        st.lists(of_errors | of_connectors, max_size=4),
        st.lists(st.tuples(st.just(MARK), marks), max_size=2),
        headers,
    )
    values = st.none() | st.binary(max_size=20)
    letter = st.builds(Raw, values, keys, any_headers, st.integers(0, PARTITIONS - 1))
    produce(stack.kafka, dlq, data.draw(st.lists(letter, min_size=1, max_size=40)))

    sources = {raw: DAGS["raw"], result: DAGS["result"]}
    expected = count_replayable(stack.kafka, dlq, REPLAY_GROUP, sources, MAX_REPLAYS)
    replayed = replay(stack.kafka, dlq, REPLAY_GROUP, sources, MAX_REPLAYS)
    assert replayed == expected
    wanted: Counter[Any] = Counter()
    left = foreign = 0
    for record in letters.new():
        topic, times = last_of(record, TOPIC), times_replayed(record)
        if topic not in sources or last_of(record, CONNECTOR) != sources[topic]:
            foreign += 1
        elif times < MAX_REPLAYS:
            own = [
                (key, value)
                for key, value in record.headers or []
                if key != MARK and not key.startswith("__connect.errors.")
            ]
            wanted[topic, record.key, record.value, (*own, (MARK, b"%d" % (times + 1)))] += 1
        else:
            left += 1
    actual = Counter(
        (name, record.key, record.value, tuple(record.headers or []))
        for name, back in (topics["raw"], topics["result"])
        for record in back.new()
    )
    assert actual == wanted
    assert (sum(replayed.sent.values()), replayed.left, replayed.foreign) == (wanted.total(), left, foreign)
    assert replay(stack.kafka, dlq, REPLAY_GROUP, sources, MAX_REPLAYS).sent.total() == 0, "each once"


def test_dead_letters_with_unreadable_headers_are_kept(stack: Stack, topics: dict[str, tuple[str, Tail]]) -> None:
    """The client cannot read header keys that are not UTF-8, so their source is unknown. Reading twice crashes it."""
    (raw, _), (dlq, letters) = topics["raw"], topics["dlq"]
    for key in (b"\xff", TOPIC.encode() + b"\xe9"):
        produce_with_header(stack.kafka["bootstrap.servers"], dlq, b"key", b"value", (key, raw.encode()))
    sources = {raw: DAGS["raw"]}
    assert count_replayable(stack.kafka, dlq, REPLAY_GROUP, sources, MAX_REPLAYS).foreign == 2
    replayed = replay(stack.kafka, dlq, REPLAY_GROUP, sources, MAX_REPLAYS)
    assert (replayed.sent.total(), replayed.foreign) == (0, 2)
    assert len(letters.new()) == 2
    for message in read_latest(stack.kafka, dlq, 2):
        assert read_headers(message) is None
        assert read_headers(message) is None, "what the client keeps of them would crash the interpreter"


def last_of(record: Record, name: str) -> str:
    """The text of a header. The last one counts; earlier ones are from before a replay."""
    names: Headers = [(key, value) for key, value in record.headers or [] if key == name]
    return (names[-1][1] or b"").decode("utf-8", "replace") if names else ""


def times_replayed(record: Record) -> int:
    """The highest replay count; a mark that is not a number of at most nine digits counts as 1."""
    marks = [value or b"" for key, value in record.headers or [] if key == MARK]
    return max(
        (int(mark) if 0 < len(mark) < 10 and set(mark) <= set(b"0123456789") else 1 for mark in marks), default=0
    )
