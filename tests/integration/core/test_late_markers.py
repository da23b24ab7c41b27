"""Kafka answers a commit before readers see it: reads right after a commit wait, or report what is held back.

The test of records older than the retention is here, because this broker checks for them twice a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local.environment import export_settings
from infra.local.services import kafka
from jobs.clients import Systems
from jobs.kafka import offsets, transaction
from jobs.kafka.claim import Limits
from jobs.kafka.client import open_consumer
from jobs.kafka.lag import read_lag
from jobs.kafka.offsets import list_held_back, read_bounds
from jobs.kafka.replay import count_replayable, read_latest, replay
from jobs.kafka.transaction import open_group_writer
from jobs.ledger import snapshot
from jobs.rides.ops.reindex import reindex
from jobs.rides.ops.reprocess import parse_window, plan_work, reprocess
from jobs.rides.ops.superseded import is_reprocessing
from jobs.rides.ops.trace import trace
from jobs.rides.vertical import DEAD_LETTERS, REPLAY_GROUP
from jobs.settings import ROOT
from tests.testkit.flow import Pipeline, run_continuously
from tests.testkit.kafka import Raw, produce, read_visible
from tests.testkit.late_markers import DelayingProxy, broker_with_proxy, held_markers
from tests.testkit.rides import encode, keyed, ride
from tests.testkit.stack import Stack, make_topic_factory
from tests.testkit.wait import DEADLINE_S, until

pytestmark = pytest.mark.timeout(120)

# Longer than a read without waiting takes, and shorter than SETTLE_S.
DELAY_S = 0.1
MONTH_MS = 30 * 24 * 60 * 60 * 1000


@pytest.fixture(scope="module")
def late(stack: Stack) -> Iterator[tuple[Stack, DelayingProxy]]:
    with broker_with_proxy() as (settings, proxy):
        here = {
            name: getattr(settings, name)
            for name in ("datastream_state", "kafka_port", "kafka_bootstrap_servers", "staging_url")
        }
        merged = stack.settings.model_copy(update=here)
        yield replace(stack, settings=merged, kafka={"bootstrap.servers": merged.bootstrap_servers}), proxy


@pytest.fixture
def topic_factory(late: tuple[Stack, DelayingProxy]) -> Callable[..., str]:
    return make_topic_factory(late[0].kafka)


@pytest.fixture
def pipeline(late: tuple[Stack, DelayingProxy], pipeline: Pipeline) -> Iterator[Pipeline]:
    """The flows on this broker, whose markers are delayed from now on."""
    here, proxy = late
    # One transaction per run: the next one cannot begin before the markers of the last.
    limits = Limits(run_records=1000, chunk_records=1000, chunk_bytes=2**25)
    flows = [
        replace(flow, config=here.kafka, limits=limits)
        for flow in (pipeline.pricing, pipeline.sinking, pipeline.exporting)
    ]
    proxy.delay_s = DELAY_S
    yield Pipeline(here, *flows)
    proxy.delay_s = 0.0


@pytest.fixture
def proxy(late: tuple[Stack, DelayingProxy]) -> DelayingProxy:
    return late[1]


def held(pipeline: Pipeline, topic: str) -> int:
    """How many offsets readers cannot see."""
    with open_consumer(pipeline.stack.kafka, "looker") as client:
        return sum(
            part.count for part in list_held_back(topic, read_bounds(pipeline.stack.kafka, client, topic, range(6)))
        )


def test_markers_are_late(pipeline: Pipeline, proxy: DelayingProxy) -> None:
    """The other tests rely on this."""
    pipeline.send(good=30)
    with held_markers(proxy):
        pipeline.pricing.run()
        assert held(pipeline, pipeline.pricing.result) == 30
        assert read_visible(pipeline.stack.kafka, pipeline.pricing.result) == []
    until(lambda: held(pipeline, pipeline.pricing.result) == 0, "the markers")


def test_the_sinks_claim_results_committed_a_moment_ago(pipeline: Pipeline, proxy: DelayingProxy) -> None:
    pipeline.send(good=30)
    with held_markers(proxy, release_after_s=1):
        pipeline.pricing.run()
        assert pipeline.sinking.staged().records == 30


def test_an_export_on_request_takes_results_committed_a_moment_ago(pipeline: Pipeline, proxy: DelayingProxy) -> None:
    pipeline.send(good=30)
    with held_markers(proxy):
        pipeline.pricing.run()
        at_once = pipeline.exporting.backlog()
        assert (at_once.offsets, at_once.held, at_once.is_due(1)) == (30, 30, False), "waits for more, or for its age"
    asked_for = pipeline.exporting.backlog(settle_s=offsets.SETTLE_S)
    assert asked_for.held == 0
    assert asked_for.is_due(1)
    assert pipeline.exporting.staged().records == 30


def test_lag_includes_results_without_markers(pipeline: Pipeline, proxy: DelayingProxy) -> None:
    pipeline.send(good=30)
    with held_markers(proxy):
        pipeline.pricing.run()
        lag = read_lag(pipeline.stack.kafka, pipeline.pricing.result, pipeline.sinking.group)
        assert (lag.offsets, sum(part.count for part in lag.held_back)) == (30, 30)
        assert pipeline.sinking.stage(settle_s=0) is None, "nothing can be read yet"


def test_the_ledger_waits_for_markers(pipeline: Pipeline) -> None:
    pipeline.send(good=30, bad=3)
    pipeline.pricing.run()
    ledger = pipeline.ledger()
    assert (ledger.result, ledger.dlq, ledger.in_flight, ledger.held_back) == (30, 3, 30, [])
    assert (ledger.faults, ledger.exit_code) == ([], 2)
    pipeline.sinking.run()
    pipeline.exporting.run()
    ledger = pipeline.ledger()
    assert (ledger.faults, ledger.held_back, ledger.exit_code) == ([], [], 0)


def test_the_ledger_never_reports_held_back_results_as_lost(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker of the group's offsets may be written before those of the results."""
    monkeypatch.setattr(snapshot, "SETTLE_S", 0.0)
    pipeline.send(good=30, bad=3)
    verdicts = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pipeline.run)
        while not running.done():
            ledger = pipeline.ledger()
            verdicts.append((ledger.exit_code, ledger.faults))
        running.result()
    assert verdicts
    assert all(code in (0, 2) and faults == [] for code, faults in verdicts), verdicts
    until(lambda: pipeline.ledger().exit_code == 0, "a balanced ledger")


def test_dead_letters_are_replayed_right_after_their_commit(pipeline: Pipeline, proxy: DelayingProxy) -> None:
    pipeline.send(good=1, bad=5)
    with held_markers(proxy, release_after_s=1):
        pipeline.pricing.run()
        sources = DEAD_LETTERS.resolve_sources(pipeline.settings)
        arguments = pipeline.stack.kafka, pipeline.pricing.dlq, REPLAY_GROUP, sources, 1
        assert count_replayable(*arguments).sent.total() == 5
    assert replay(*arguments).sent.total() == 5
    assert replay(*arguments).sent.total() == 0


def test_dead_letters_and_traces_are_found_right_after_their_commit(pipeline: Pipeline) -> None:
    sent = ride()
    produce(pipeline.stack.kafka, pipeline.pricing.source, [keyed(sent), Raw(b"bad", b"k")])
    pipeline.pricing.run()
    with ThreadPoolExecutor(1) as pool:
        letters = pool.submit(read_latest, pipeline.stack.kafka, pipeline.pricing.dlq, 5)
        traces = trace(Systems(pipeline.settings), sent["ride_id"])
        assert [place.place for place in traces] == [pipeline.pricing.source, pipeline.pricing.result]
        assert [letter.value() for letter in letters.result()] == [b"bad"]


def test_reprocessing_sees_dead_letters_and_results_right_after_their_commit(pipeline: Pipeline) -> None:
    good = [ride(ts="2026-01-05T09:00:00Z") for _ in range(12)]
    bad = ride(ts="2026-01-05T09:00:00Z", comfort="none")
    produce(pipeline.stack.kafka, pipeline.pricing.source, [*map(keyed, good), Raw(encode(bad), b"bad")])
    pipeline.pricing.run()
    work = plan_work(pipeline.systems, parse_window("2026-01-05T08:30:00Z", "2026-01-05T10:00:00Z"))
    assert len(work.rides) == 12, "a ride that was rejected has no price to mend"
    with run_continuously(pipeline):
        done = reprocess(pipeline.systems, work, lambda: None)
    assert (done.rides, done.copies) == (12, 12)
    assert not is_reprocessing(pipeline.stack.kafka, pipeline.pricing.source), "its last commit is seen at once"
    assert (pipeline.ledger().faults, pipeline.ledger().exit_code) == ([], 0)


def test_reindexing_takes_results_indexed_a_moment_ago(pipeline: Pipeline) -> None:
    pipeline.send(good=30)
    pipeline.pricing.run()
    pipeline.sinking.run()
    pipeline.stack.elasticsearch.indices.delete(index=pipeline.sinking.index)
    done = reindex(Systems(pipeline.settings, may_write=True))
    assert (done.results, done.documents) == (30, 30)


def test_the_wait_command_waits_for_markers(pipeline: Pipeline, proxy: DelayingProxy) -> None:
    """This race failed one `make demo` in seventeen: no lag on rides_result, and nothing indexed."""
    pipeline.send(good=30)
    variables = {**os.environ, **export_settings(pipeline.settings), "COLUMNS": "200"}
    with held_markers(proxy):
        pipeline.pricing.run()
        done = subprocess.run(
            [sys.executable, "-m", "jobs", "wait", "--timeout", "1"],
            cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3, "nobody has indexed anything"
    told = " ".join(done.stderr.split())
    assert "rides indexed (30 offsets)" in told
    assert f"Held back by an open transaction: {pipeline.pricing.result}[" in told


# --- Abandoned transactions -----------------------------------------------------------------------


def test_an_abandoned_transaction_is_aborted_after_its_timeout(pipeline: Pipeline) -> None:
    """After 1 s here, where the broker checks twice a second. In production after 20 s, checked every 10 s."""
    assert transaction._TRANSACTION_TIMEOUT_S == 20
    assert not any("abort.timed.out" in name for name in kafka.BROKER), "Kafka's default is 10 s"
    config, pricing = pipeline.stack.kafka, pipeline.pricing
    with open_group_writer(config, pricing.group, pricing.source, 10, transaction_timeout_s=1) as writer:
        writer._producer.begin_transaction()
        writer.send(pricing.result, b"k", b"abandoned", [], partition=0)
        assert writer._producer.flush(DEADLINE_S) == 0
        produce(config, pricing.result, [Raw(b"later", b"k", partition=0)])
        assert read_visible(config, pricing.result) == []
        until(lambda: read_visible(config, pricing.result) != [], "the broker aborts the transaction", within_s=5)
        assert [record.value for record in pricing.results()] == [b"later"]


# --- Retention ------------------------------------------------------------------------------------


def old_records(config: dict[str, Any], topic: str, count: int) -> None:
    """Send records with timestamps of a month ago, as a backfill, a mirror or a restore does."""
    then = int(time.time() * 1000) - MONTH_MS
    producer = Producer(config)
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=0, timestamp=then + number)
    assert producer.flush(DEADLINE_S) == 0


def low(config: dict[str, Any], topic: str) -> int:
    with open_consumer(config, "looker") as client:
        watermarks: tuple[int, int] = client.get_watermark_offsets(TopicPartition(topic, 0), timeout=DEADLINE_S)
        return watermarks[0]


def test_records_with_old_timestamps_are_kept_as_long_as_others(
    late: tuple[Stack, DelayingProxy], topic_factory: Callable[..., str]
) -> None:
    config, raw = late[0].kafka, topic_factory("raw")
    admin = AdminClient(config)
    settings = {"retention.ms": "604800000", "message.timestamp.type": "CreateTime"}
    old_records(config, raw, 20)
    # Two control topics prove that the broker has checked every topic and deletes expired records.
    for control in (f"control-1-{raw}", f"control-2-{raw}"):
        admin.create_topics([NewTopic(control, 1, 1, config=settings)])[control].result(DEADLINE_S)
        until(lambda name=control: admin.list_topics(name, timeout=DEADLINE_S).topics[name].error is None, control)
        old_records(config, control, 20)
        until(lambda name=control: low(config, name) == 20, "deletion of the control's records")
    assert low(config, raw) == 0
    assert len(read_visible(config, raw)) == 20
