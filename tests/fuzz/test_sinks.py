"""Any message on rides_result is in both sinks unchanged, or is a dead letter, never both."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import fuzzed
from tests.fuzz.messages import extremes, foreign_values, good, messages
from tests.fuzz.oracle import judge, judge_result
from tests.fuzz.outcome import source_of
from tests.fuzz.tail import Tail, tail
from tests.testkit.flow import Exporting, Pricing, Sinking
from tests.testkit.kafka import Raw, Record, produce
from tests.testkit.rides import keyed, result, ride

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def sink_tails(sinking: Sinking) -> Iterator[tuple[Tail, Tail]]:
    """New messages on rides_result and rides_dlq."""
    with tail(sinking.config, sinking.source) as result, tail(sinking.config, sinking.dlq) as dlq:
        yield result, dlq


@fuzzed
@given(sent=st.lists(messages(foreign_values), max_size=25))
def test_any_result_is_accepted_or_rejected(
    sinking: Sinking, exporting: Exporting, sink_tails: tuple[Tail, Tail], sent: list[Raw]
) -> None:
    produce(sinking.config, sinking.source, [*(raw._replace(partition=0) for raw in sent), keyed(result())])
    arrive_once(sinking, exporting, sink_tails)


@fuzzed
@given(sent=st.lists(messages(extremes), min_size=1, max_size=3))
def test_deep_and_large_results_are_accepted_or_rejected(
    sinking: Sinking, exporting: Exporting, sink_tails: tuple[Tail, Tail], sent: list[Raw]
) -> None:
    produce(sinking.config, sinking.source, [*(raw._replace(partition=0) for raw in sent), keyed(result())])
    arrive_once(sinking, exporting, sink_tails)


@fuzzed
@given(sent=st.lists(messages(good()), max_size=25))
def test_priced_rides_reach_both_sinks(
    pricing: Pricing, sinking: Sinking, exporting: Exporting, sink_tails: tuple[Tail, Tail], sent: list[Raw]
) -> None:
    """Rides at the limits of the contract are priced, indexed and exported without a rejection."""
    produce(pricing.config, pricing.source, [*sent, keyed(ride())])
    pricing.result = sinking.source
    pricing.run()
    taken = arrive_once(sinking, exporting, sink_tails)
    # Where the last digit decides (`Verdict`), the ride may have a price or not.
    certain = [judge(raw.value) for raw in sent]
    wanted = {verdict.ride["ride_id"] for verdict in certain if verdict.ride and not verdict.faults}
    assert wanted <= set(taken)


def arrive_once(sinking: Sinking, exporting: Exporting, sink_tails: tuple[Tail, Tail]) -> list[str]:
    """Run the sinks and compare their content with rides_result; returns the accepted rides."""
    exporting.prefix = f"tests/{uuid4().hex[:8]}/"
    sinking.run()
    exporting.run()
    results, dead = (each.new() for each in sink_tails)
    letters = {source_of(letter): letter for letter in dead}
    assert len(letters) == len(dead), "no position twice"
    rows = {(row["kafka_partition"], row["kafka_offset"]): row for row in exported(exporting)}
    newest: dict[str, dict[str, Any]] = {}
    for message in results:
        position = message.partition, message.offset
        verdict = judge_result(message.value)
        letter, row = letters.pop(position, None), rows.pop(position, None)
        assert (letter is None) == (row is not None), f"{message.value!r:.500} is {verdict}: in one of both"
        if letter is not None:
            assert verdict.faults, f"{message.value!r:.500} is refused: {dict(letter.headers or [])}"
            check_letter(message, letter)
        elif row is not None:
            assert verdict.ride is not None, f"{message.value!r:.500} is taken as {row}"
            assert flat(row) == verdict.ride
            newest[row["ride_id"]] = row
    assert not letters
    assert not rows
    documents = sinking.elasticsearch.mget(index=sinking.index, ids=list(newest))["docs"]
    for document, row in zip(documents, newest.values(), strict=True):
        source = document["_source"]
        assert source["agent_timestamp"] == iso(row["agent_timestamp"])
        assert (document["_version"], source["kafka_offset"]) == (row["kafka_offset"],) * 2
        assert {name: source[name] for name in flat(row)} == flat(row)
    return list(newest)


def exported(exporting: Exporting) -> list[dict[str, Any]]:
    return [row for content in exporting.objects().values() for row in pq.read_table(io.BytesIO(content)).to_pylist()]


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Parquet with the field names of rides_result."""
    left = {
        name: value for name, value in row.items() if name not in {"agent_timestamp", "kafka_partition", "kafka_offset"}
    }
    for point in ("origin", "destination"):
        left[point] = {axis: left.pop(f"{point}_{axis}") for axis in ("lat", "lon")}
    return {**left, "ts": iso(row["ts"])}


def iso(moment: Any) -> str:
    text: str = moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return text


def check_letter(message: Record, letter: Record) -> None:
    assert (letter.key, letter.value) == (message.key, message.value)
    own = message.headers or []
    assert (letter.headers or [])[: len(own)] == own
    why = dict((letter.headers or [])[len(own) :])
    assert why["__connect.errors.exception.class.name"] in {b"invalid_result", b"refused_by_elasticsearch"}
    assert why["__connect.errors.exception.message"]
