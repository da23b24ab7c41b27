"""rides_raw → rides_result and rides_dlq exactly once, after kills and retries."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from jobs.errors import OffsetsError, ServiceUnavailableError
from jobs.kafka.claim import Limits
from jobs.kafka.scan import Claim
from jobs.kafka.staged import Manifest
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.rides.contract import parse_ride
from jobs.settings import ROOT
from ride_faults import draw_faults
from ride_generator import NEW_YORK, make_rides, now
from tests.testkit.flow import Pricing, held_when_forgotten
from tests.testkit.kafka import Raw, aborted, java_partition, produce, read_all, read_visible, send, transactional
from tests.testkit.rides import encode, keyed, ride
from tests.testkit.wait import DEADLINE_S, until

pytestmark = pytest.mark.timeout(120)


def rides(count: int) -> list[Raw]:
    return [keyed(ride()) for _ in range(count)]


def ids(records: Any) -> Counter[bytes]:
    return Counter(record.key for record in records)


def assert_once(pricing: Pricing, sent: list[Raw]) -> None:
    """Every message that was sent has one result or one dead letter, and the group has passed them all."""
    results, dead = pricing.results(), pricing.dead_letters()
    raws = read_all(pricing.config, pricing.source)
    assert len(raws) == len(sent)
    positions = Counter((int(letter.error["partition"]), int(letter.error["offset"])) for letter in dead)
    assert set(positions.values()) <= {1}
    assert ids(results) == Counter(
        parse_ride(record.value).ride_id.encode()
        for record in raws
        if (record.partition, record.offset) not in positions
    )
    ends = dict.fromkeys(range(6), 0)
    for record in raws:
        ends[record.partition] = max(ends[record.partition], record.offset + 1)
    assert all((offset or 0) >= ends[partition] for partition, offset in pricing.offsets().items())


# --- Without failures -----------------------------------------------------------------------------


def test_valid_invalid_and_duplicate_messages_balance(pricing: Pricing) -> None:
    good = [encode(made) for made in islice(make_rides(NEW_YORK, 7, now), 200)]
    faults = list(islice(draw_faults(random.Random(7)), 140))
    broken = [(label, fault(made)) for (label, fault), made in zip(faults, make_rides(NEW_YORK, 8, now), strict=False)]
    sent = [Raw(value, json.loads(value)["ride_id"].encode()) for value in [*good, *good[:25]]]
    sent += [Raw(value, b"%d" % number, [("label", label.encode())]) for number, (label, value) in enumerate(broken)]
    random.Random(7).shuffle(sent)
    pricing.limits = Limits(run_records=1000, chunk_records=25, chunk_bytes=2**25)
    produce(pricing.config, pricing.source, sent)

    published = pricing.run()
    assert published.results == 225
    assert published.rejects == Counter(label for label, _ in broken)
    assert_once(pricing, sent)

    for letter in pricing.dead_letters():
        label = dict(letter.headers or [])["label"]
        assert letter.error["exception.class.name"].encode() == label
    assert pricing.stage() is None


def test_results_are_partitioned_like_java(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(60))
    pricing.run()
    results = pricing.results()
    assert len({record.partition for record in results}) == 6
    for record in results:
        assert record.key is not None
        assert record.key == json.loads(record.value or b"")["ride_id"].encode()
        assert record.partition == java_partition(record.key, 6)
        assert record.headers is None


def test_murmur2_matches_java() -> None:
    """Values of org.apache.kafka.common.utils.UtilsTest.testMurmur2, as positive numbers."""
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    for key, value in known.items():
        assert java_partition(key, 2**31) == value & 0x7FFFFFFF


def test_dead_letters_hold_the_message_byte_for_byte(pricing: Pricing) -> None:
    headers = [("trace", b"1"), ("trace", b"\x00\xff"), ("empty", b""), ("null", None), ("é", b"name")]
    sent = [
        Raw(None, None),
        Raw(None, b""),
        Raw(b"", None),
        Raw(b"", b"", headers),
        Raw(b"\x00\xff not a ride", b"\xff\x00", headers),
        Raw(None, b"key", headers),
        Raw(b" " * 10 + encode(ride(comfort="luxury")), b"another-key"),
        Raw(b"[]", b"k", [("__connect.errors.topic", b"an earlier life")]),
    ]
    for number, raw in enumerate(sent):
        produce(pricing.config, pricing.source, [raw._replace(partition=number % 6)])
    produce(pricing.config, pricing.source, rides(3))
    pricing.run()

    raws = read_all(pricing.config, pricing.source)
    dead = {(int(letter.error["partition"]), int(letter.error["offset"])): letter for letter in pricing.dead_letters()}
    assert len(dead) == len(sent)
    seen = []
    for (partition, offset), letter in dead.items():
        (source,) = [record for record in raws if (record.partition, record.offset) == (partition, offset)]
        assert (letter.key, letter.value) == (source.key, source.value)
        own = source.headers or []
        assert (letter.headers or [])[: len(own)] == own
        why = dict((letter.headers or [])[len(own) :])
        assert set(why) == {
            f"__connect.errors.{name}"
            for name in (
                *("topic", "partition", "offset", "connector.name", "task.id", "stage"),
                *("exception.class.name", "exception.message"),
            )
        }
        assert why["__connect.errors.topic"] == pricing.source.encode()
        assert why["__connect.errors.connector.name"] == b"dag_compute_cost"
        assert why["__connect.errors.task.id"] == b"ComputeCostTravel"
        assert why["__connect.errors.stage"] == b"TRANSFORMATION"
        seen.append((letter.key, letter.value))
    assert Counter(seen) == Counter((raw.key, raw.value) for raw in sent)


def test_the_largest_message_fits_the_dead_letter_topic(pricing: Pricing) -> None:
    noise = random.Random(7).randbytes(1_048_000)
    huge = Raw(b"\xff" + noise, b"key", partition=2)
    headed = Raw(b"\xff", b"key", [("noise", noise)], partition=2)
    sent = [huge, headed, huge, *(raw._replace(partition=2) for raw in rides(3))]
    produce(pricing.config, pricing.source, sent)
    published = pricing.run()
    assert published.rejects == {"invalid_utf8": 3}
    assert Counter(letter.value for letter in pricing.dead_letters()) == {huge.value: 2, b"\xff": 1}
    assert_once(pricing, sent)


def test_chunks_are_limited_by_records_and_bytes(pricing: Pricing) -> None:
    sent = [Raw(encode(ride(note="x" * size)), b"k", partition=1) for size in (10, 10, 3000, 10, 10, 10, 10, 10)]
    produce(pricing.config, pricing.source, sent)
    pricing.limits = Limits(run_records=100, chunk_records=3, chunk_bytes=3000)
    manifest = pricing.staged()
    assert [(chunk.first, chunk.last, chunk.next) for chunk in manifest.chunks] == [(0, 2, 3), (3, 5, 6), (6, 7, 8)]
    pricing.publish(pricing.compute(manifest))
    assert_once(pricing, sent)


def test_a_run_is_limited_by_records(pricing: Pricing) -> None:
    sent = [raw._replace(partition=number % 2) for number, raw in enumerate(rides(50))]
    produce(pricing.config, pricing.source, sent)
    pricing.limits = Limits(run_records=20, chunk_records=7, chunk_bytes=2**25)
    counts = []
    while (manifest := pricing.stage()) is not None:
        counts.append(manifest.records)
        pricing.publish(pricing.compute(manifest))
    assert counts == [20, 20, 10]
    assert_once(pricing, sent)


def test_an_empty_topic_leaves_no_files(pricing: Pricing, tmp_path: Path) -> None:
    assert pricing.stage() is None
    assert pricing.stage(wait_s=0.3) is None
    assert pricing.offsets() == dict.fromkeys(range(6))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [pricing.source], "only its topic's id"


def test_waiting_ends_at_the_first_message(pricing: Pricing) -> None:
    producer = Producer({**pricing.config, "linger.ms": 500})
    send(producer, pricing.source, rides(1))  # still buffered when the wait starts
    manifest = pricing.stage(wait_s=DEADLINE_S)
    assert manifest is not None
    assert manifest.records == 1


# --- Retries --------------------------------------------------------------------------------------


def test_every_step_may_be_repeated(pricing: Pricing) -> None:
    sent = [*rides(45), Raw(b"bad", b"k"), Raw(None, None)]
    produce(pricing.config, pricing.source, sent)
    pricing.staged()
    manifest = pricing.staged()
    pricing.compute(manifest)
    computed = pricing.compute(manifest)
    first = pricing.publish(computed)
    assert (first.results, first.rejects.total()) == (45, 2)
    again = pricing.publish(computed)
    assert (again.results, again.rejects.total()) == (0, 0)
    assert_once(pricing, sent)


@pytest.mark.parametrize("fails_in_chunk", [1, 2, 4])
def test_a_failed_publisher_resumes_after_its_last_commit(
    pricing: Pricing, monkeypatch: pytest.MonkeyPatch, fails_in_chunk: int
) -> None:
    sent = [*rides(50), *(Raw(b"bad %d" % number, b"%d" % number) for number in range(20))]
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    assert len(computed.chunks) > 5
    calls = 0
    send_all = GroupWriter.send_all

    def failing(writer: GroupWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        send_all(writer, *arguments)
        if calls == fails_in_chunk:
            raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "send_all", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            pricing.publish(computed)
    assert len(pricing.results()) < 50
    pricing.publish(computed)
    assert_once(pricing, sent)


def test_overlapping_claims_are_published_once(pricing: Pricing) -> None:
    """A repeated ConsumeKafka claimed more; the older manifest finds its part published."""
    first = rides(20)
    produce(pricing.config, pricing.source, first)
    older = pricing.computed()
    more = rides(20)
    produce(pricing.config, pricing.source, more)
    newer = pricing.computed()
    assert newer.records == 40
    pricing.publish(older)
    pricing.publish(newer)
    pricing.publish(older)
    assert_once(pricing, [*first, *more])


BLOCKED = """
    import sys, time
    from pathlib import Path
    from jobs.kafka.publish import Outlet, publish
    from jobs.kafka.transaction import GroupWriter
    from jobs.kafka.staged import read_manifest

    servers, url, result, dlq, mark, chunks = sys.argv[1:]
    calls = 0
    send_all = GroupWriter.send_all

    def blocking(writer, *arguments):
        global calls
        send_all(writer, *arguments)
        calls += 1
        if calls == int(chunks):
            assert writer._producer.flush(30) == 0
            Path(mark).touch()
            time.sleep(600)

    GroupWriter.send_all = blocking
    outlet = Outlet(result, dlq, "dag_compute_cost", "ComputeCostTravel", "TRANSFORMATION")
    publish({"bootstrap.servers": servers}, read_manifest(url), outlet)
"""


def test_a_publisher_killed_in_a_transaction_is_completed_once(pricing: Pricing, tmp_path: Path) -> None:
    sent = [*rides(50), *(Raw(b"bad %d" % number, b"%d" % number) for number in range(10))]
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    url = pricing.folder.child("killed").write_manifest(computed)
    mark = tmp_path / "blocked"
    arguments = [pricing.config["bootstrap.servers"], url, pricing.result, pricing.dlq, str(mark), "3"]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BLOCKED), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        until(lambda: mark.exists() or process.poll() is not None, "the publisher is in its third chunk")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()

    visible = len(read_visible(pricing.config, pricing.result))
    assert 0 < visible < 50, "the first chunks are visible, the third is not"
    pricing.publish(computed)
    assert_once(pricing, sent)


# --- Zombies --------------------------------------------------------------------------------------


def test_a_zombie_after_init_transactions_is_fenced(pricing: Pricing, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = rides(50)
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    send_all = GroupWriter.send_all

    def asleep(writer: GroupWriter, *arguments: Any) -> None:
        """The zombie sleeps in its first transaction; meanwhile the next try does all the work."""
        monkeypatch.setattr(GroupWriter, "send_all", send_all)
        assert pricing.publish(computed).results == 50
        send_all(writer, *arguments)

    monkeypatch.setattr(GroupWriter, "send_all", asleep)
    with pytest.raises(ServiceUnavailableError, match=f"group {pricing.group} failed: a newer worker has taken over"):
        pricing.publish(computed)
    assert_once(pricing, sent)


def test_a_zombie_between_init_and_begin_is_fenced(pricing: Pricing, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = rides(50)
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    committed = GroupWriter.read_committed

    def asleep(writer: GroupWriter) -> Any:
        """The zombie has read the old offsets when it falls asleep."""
        offsets = committed(writer)
        monkeypatch.setattr(GroupWriter, "read_committed", committed)
        assert pricing.publish(computed).results == 50
        return offsets

    monkeypatch.setattr(GroupWriter, "read_committed", asleep)
    with pytest.raises(ServiceUnavailableError, match="newer worker"):
        pricing.publish(computed)
    assert_once(pricing, sent)


def test_a_zombie_before_init_transactions_finds_nothing_to_do(pricing: Pricing) -> None:
    sent = rides(50)
    produce(pricing.config, pricing.source, sent)
    manifest = pricing.staged()
    zombie, newer = pricing.compute(manifest), pricing.compute(manifest)
    pricing.publish(newer)
    assert pricing.publish(zombie).results == 0
    assert_once(pricing, sent)


def test_a_zombie_in_the_middle_of_a_newer_run_publishes_only_the_rest(
    pricing: Pricing, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = rides(60)
    produce(pricing.config, pricing.source, sent)
    zombie, newer = pricing.computed(), pricing.computed()
    calls = 0
    send_all = GroupWriter.send_all

    def interrupted(writer: GroupWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # the zombie wakes while the newer worker is at its fourth chunk
            assert 0 < pricing.publish(zombie).results < 60
        send_all(writer, *arguments)

    monkeypatch.setattr(GroupWriter, "send_all", interrupted)
    with pytest.raises(ServiceUnavailableError, match="newer worker"):
        pricing.publish(newer)
    assert_once(pricing, sent)


def _half_published(pricing: Pricing, computed: Manifest, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish the first chunks of a manifest, then fail."""
    calls = 0
    send_all = GroupWriter.send_all

    def failing(writer: GroupWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > chunks:
            raise OSError("killed")
        send_all(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "send_all", failing)
        with pytest.raises(OSError, match="killed"):
            pricing.publish(computed)


def test_small_chunks_of_several_partitions_share_a_transaction(
    pricing: Pricing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of three partitions fit into one transaction of ten messages, which is committed as a whole."""
    sent = [raw._replace(partition=number % 6) for number, raw in enumerate(rides(17))]
    sent.append(Raw(b"bad", b"k", partition=1))
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    _half_published(pricing, computed, 2, monkeypatch)
    assert pricing.results() == pricing.dead_letters() == []
    assert pricing.offsets() == dict.fromkeys(range(6))

    _half_published(pricing, computed, 5, monkeypatch)
    assert (len(pricing.results()), len(pricing.dead_letters())) == (9, 1)
    assert pricing.offsets() == {0: 3, 1: 4, 2: 3, 3: None, 4: None, 5: None}

    published = pricing.publish(computed)
    assert (published.results, published.rejects.total()) == (8, 0)
    assert_once(pricing, sent)


def test_acknowledged_messages_are_freed_during_the_transaction(
    pricing: Pricing, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = held_when_forgotten(monkeypatch)
    monkeypatch.setattr("jobs.kafka.publish.PIECE_RECORDS", 5)
    sent = [*(raw._replace(partition=0) for raw in rides(18)), Raw(b"bad", partition=0), Raw(None, partition=0)]
    produce(pricing.config, pricing.source, sent)
    pricing.run()
    assert held == [5, 5, 5, 5]  # two transactions of ten
    assert_once(pricing, sent)


def test_a_transaction_does_not_wait_for_staged_files(pricing: Pricing, monkeypatch: pytest.MonkeyPatch) -> None:
    """All messages are read before it begins: the files are deleted by then."""
    sent = [raw._replace(partition=number % 6) for number, raw in enumerate(rides(18))]
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    transaction = GroupWriter.transaction

    def without_files(writer: GroupWriter, *arguments: Any) -> Any:
        pricing.folder.delete()
        return transaction(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "transaction", without_files)
        with pytest.raises(FileNotFoundError):
            pricing.publish(computed)
    assert len(pricing.results()) == 9
    pricing.run()
    assert_once(pricing, sent)


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(True, id="with-a-chunk-left"),
        pytest.param(False, id="with-markers-left"),
    ],
)
def test_an_older_claim_never_moves_offsets_back(pricing: Pricing, monkeypatch: pytest.MonkeyPatch, rest: bool) -> None:
    """Run A failed after partition 0, run B after its partition 0; then A's PublishKafka is tried again."""
    sent = [raw._replace(partition=0) for raw in rides(10)]
    produce(pricing.config, pricing.source, sent)
    if rest:
        late = [raw._replace(partition=1) for raw in rides(10)]
        produce(pricing.config, pricing.source, late)
        sent += late
    else:
        aborted(pricing.config, pricing.source, [raw._replace(partition=1) for raw in rides(10)])
    older = pricing.computed()
    if rest:
        _half_published(pricing, older, 1, monkeypatch)
    else:
        pricing.set_offsets({0: 0})
        pricing.publish(msgspec.structs.replace(older, claims=(Claim(0, 0, 10),)))
    assert pricing.offsets()[0] == 10

    more = [raw._replace(partition=0) for raw in rides(10)]
    produce(pricing.config, pricing.source, more)
    newer = pricing.computed()
    one_partition = tuple(chunk for chunk in newer.chunks if chunk.partition == 0)
    pricing.publish(
        msgspec.structs.replace(newer, chunks=one_partition, claims=(Claim(0, 10, 20),)),
    )
    assert pricing.offsets()[0] == 20

    pricing.publish(older)
    assert pricing.offsets()[0] == 20, "committed offsets went backwards"
    while pricing.stage() is not None:
        pricing.run()
    assert_once(pricing, [*sent, *more])


def test_a_claim_ahead_of_the_group_is_rejected(pricing: Pricing) -> None:
    """The offsets were reset during a run, so messages before its claim are still to be priced."""
    sent = [raw._replace(partition=0) for raw in rides(30)]
    produce(pricing.config, pricing.source, sent)
    pricing.set_offsets(dict.fromkeys(range(6), 0) | {0: 20})
    ahead = pricing.computed()
    assert ahead.records == 10
    pricing.set_offsets({0: 0})
    with pytest.raises(OffsetsError, match=pricing.group):
        pricing.publish(ahead)
    assert pricing.offsets()[0] == 0
    pricing.run()
    assert_once(pricing, sent)


# --- Foreign transactions -------------------------------------------------------------------------


def test_aborted_messages_are_not_priced(pricing: Pricing) -> None:
    good = rides(30)
    aborted(pricing.config, pricing.source, rides(10))
    produce(pricing.config, pricing.source, good[:15])
    aborted(pricing.config, pricing.source, [*rides(5), Raw(b"bad", b"k")])
    produce(pricing.config, pricing.source, good[15:])
    aborted(pricing.config, pricing.source, rides(25))
    published = pricing.run()
    assert (published.results, published.rejects.total()) == (30, 0)
    assert ids(pricing.results()) == ids(good)
    assert pricing.stage() is None


def test_a_claim_of_only_markers_commits_its_end(pricing: Pricing) -> None:
    aborted(pricing.config, pricing.source, [Raw(b"x", partition=partition) for partition in (0, 0, 3)])
    manifest = pricing.staged()
    assert (manifest.records, manifest.chunks) == (0, ())
    published = pricing.publish(pricing.compute(manifest))
    assert (published.results, published.rejects.total()) == (0, 0)
    assert pricing.offsets() == {0: 3, 1: 0, 2: 0, 3: 2, 4: 0, 5: 0}
    assert pricing.stage() is None
    assert pricing.results() == pricing.dead_letters() == []


def test_an_open_transaction_is_not_claimed(pricing: Pricing) -> None:
    before, open_, after = rides(5), rides(7), rides(3)
    place = {"partition": 4}
    produce(pricing.config, pricing.source, [raw._replace(**place) for raw in before])
    producer = transactional(pricing.config, f"open-{pricing.group}")
    send(producer, pricing.source, [raw._replace(**place) for raw in open_])
    assert producer.flush(DEADLINE_S) == 0
    produce(pricing.config, pricing.source, [raw._replace(**place) for raw in after])
    manifest = pricing.staged()
    assert manifest.ends[4] == 5
    pricing.publish(pricing.compute(manifest))
    assert ids(pricing.results()) == ids(before)
    assert pricing.stage() is None

    producer.commit_transaction(DEADLINE_S)
    assert pricing.run().results == 10
    assert_once(pricing, [*before, *open_, *after])


def test_read_all_waits_for_open_transactions(pricing: Pricing) -> None:
    """Kafka answers a commit before readers see it, so an immediate read would miss messages."""
    sent = rides(5)
    producer = transactional(pricing.config, f"open-{pricing.group}")
    send(producer, pricing.result, sent)
    assert producer.flush(DEADLINE_S) == 0
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(pricing.results)
        with pytest.raises(TimeoutError):
            reading.result(timeout=1)
        producer.commit_transaction(DEADLINE_S)
        assert ids(reading.result(DEADLINE_S)) == ids(sent)


def test_readers_see_whole_chunks_only(pricing: Pricing) -> None:
    """Results and dead letters of a chunk become visible together, with its offsets."""
    sent = [raw._replace(partition=0) for raw in [*rides(5), *(Raw(b"bad", b"k") for _ in range(5))]]
    produce(pricing.config, pricing.source, sent)
    computed = pricing.computed()
    with open_group_writer(pricing.config, pricing.group, pricing.source, 10) as writer:
        with writer.transaction({0: 10}):
            writer.send_all(pricing.result, [{"key": b"k", "value": b"v"}])
            writer.send(pricing.dlq, b"k", b"v", [])
            assert writer._producer.flush(DEADLINE_S) == 0
            assert [read_visible(pricing.config, topic) for topic in (pricing.result, pricing.dlq)] == [[], []]
        assert len(pricing.results()) == len(pricing.dead_letters()) == 1
    assert pricing.publish(computed).results == 0
