"""Compares the outcome of messages on rides_raw, as read from Kafka, with the oracle."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.fuzz.messages import PARTITIONS
from tests.fuzz.oracle import Verdict, is_result_of, judge
from tests.fuzz.tail import Tail
from tests.testkit.flow import Pricing
from tests.testkit.kafka import Raw, Record, produce
from tests.testkit.rides import keyed, ride

# Of rides_raw, rides_result and rides_dlq.
Tails = tuple[Tail, Tail, Tail]

WHY = "__connect.errors."
WHY_NAMES = (
    *("topic", "partition", "offset", "connector.name", "task.id", "stage"),
    *("exception.class.name", "exception.message"),
)


def end_once(pricing: Pricing, tails: Tails, sent: list[Raw]) -> None:
    """Send messages and then a valid ride to each partition, and compare the outcome with the oracle."""
    last = [keyed(ride())._replace(partition=partition) for partition in range(PARTITIONS)]
    produce(pricing.config, pricing.source, [*sent, *last])
    pricing.run()
    raws, results, dead = (each.new() for each in tails)
    assert len(raws) >= len(sent) + PARTITIONS
    letters = {source_of(letter): letter for letter in dead}
    assert len(letters) == len(dead), "no position twice"
    wanted: dict[bytes | None, list[dict[str, Any]]] = defaultdict(list)
    for raw in raws:
        verdict = judge(raw.value)
        letter = letters.pop((raw.partition, raw.offset), None)
        if letter is not None:
            check_letter(pricing, raw, letter, verdict)
        else:
            assert verdict.ride is not None, f"{raw.value!r:.500} is {verdict}, and has no dead letter"
            wanted[verdict.ride["ride_id"].encode()].append(verdict.ride)
    assert not letters, "every dead letter is of a message that was sent"
    for result in results:
        rides = wanted[result.key]
        mine = [ride for ride in rides if is_result_of(ride, result.value or b"")]
        assert mine, f"{result.value!r} is the result of none of {rides}"
        rides.remove(mine[0])
    assert not any(wanted.values()), "every good ride has its result"
    assert all(any(result.key == raw.key for result in results) for raw in last)


def source_of(letter: Record) -> tuple[int, int]:
    """Partition and offset of a dead letter's source, by the last headers of these names."""
    why = dict(letter.headers or [])
    return int(why[WHY + "partition"] or b""), int(why[WHY + "offset"] or b"")


def check_letter(pricing: Pricing, raw: Record, letter: Record, verdict: Verdict) -> None:
    """A dead letter is the message byte for byte, with its headers first and the error headers after them."""
    assert (letter.key, letter.value) == (raw.key, raw.value)
    own = raw.headers or []
    assert (letter.headers or [])[: len(own)] == own
    why = dict((letter.headers or [])[len(own) :])
    assert set(why) == {WHY + name for name in WHY_NAMES}
    assert why[WHY + "topic"] == pricing.source.encode()
    assert why[WHY + "exception.message"]
    reason = (why[WHY + "exception.class.name"] or b"").decode()
    assert reason in verdict.faults, f"{raw.value!r:.500} is {verdict}, not {reason}"
