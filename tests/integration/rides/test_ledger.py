"""The ledger reports lost, duplicated and pending messages, counted in the systems themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from infra.local.environment import export_settings
from infra.local.java import jars, runtime
from jobs.clients import Systems
from jobs.kafka.client import open_consumer
from jobs.kafka.lag import Lag, read_lag
from jobs.kafka.offsets import HeldBack, list_held_back, read_bounds
from jobs.kafka.open_transactions import describe_held_back
from jobs.kafka.replay import replay
from jobs.ledger import snapshot
from jobs.rides.ops import reprocess
from jobs.rides.vertical import DEAD_LETTERS, REPLAY_GROUP
from jobs.settings import ROOT
from tests.testkit.flow import Pipeline
from tests.testkit.kafka import Raw, Record, produce, read_visible, send, transactional
from tests.testkit.rides import keyed, result
from tests.testkit.wait import until


def test_a_complete_run_is_balanced(pipeline: Pipeline) -> None:
    pipeline.send(good=30, bad=4, twice=3)
    pipeline.run()
    ledger = pipeline.ledger()
    assert (ledger.raw, ledger.result, ledger.duplicates, ledger.dlq) == (37, 33, 3, 4)
    assert (ledger.elasticsearch, ledger.parquet, ledger.pending, ledger.in_flight) == (30, 33, 0, 0)
    assert ledger.dlq_by_reason == {"invalid_json": 4}
    assert (ledger.faults, ledger.balanced, ledger.exit_code) == ([], True, 0)


def test_rides_in_flight_are_pending(pipeline: Pipeline) -> None:
    pipeline.send(good=10)
    pipeline.run()
    pipeline.send(good=5)
    ledger = pipeline.ledger()
    assert (ledger.pending, ledger.in_flight, ledger.balanced, ledger.exit_code) == (5, 0, True, 2)
    pipeline.pricing.run()
    ledger = pipeline.ledger()
    assert (ledger.pending, ledger.in_flight, ledger.balanced, ledger.exit_code) == (0, 5, True, 2)
    # Both sinks hold more than their groups have committed.
    written, staged = pipeline.sinking.write(), pipeline.exporting.staged()
    pipeline.exporting.write(staged)
    ledger = pipeline.ledger()
    assert (ledger.in_flight, ledger.balanced, ledger.exit_code) == (5, True, 2)
    pipeline.sinking.commit(*written)
    ledger = pipeline.ledger()
    assert (ledger.in_flight, ledger.balanced, ledger.exit_code) == (5, True, 2)
    pipeline.exporting.commit(staged)
    ledger = pipeline.ledger()
    assert (ledger.elasticsearch, ledger.parquet, ledger.in_flight, ledger.exit_code) == (15, 15, 0, 0)


def test_an_export_ahead_of_the_index_is_balanced(pipeline: Pipeline) -> None:
    pipeline.send(good=10)
    pipeline.run()
    produce(pipeline.stack.kafka, pipeline.pricing.result, [Raw(b"no result", b"k")])
    pipeline.exporting.run()
    ledger = pipeline.ledger()
    assert (ledger.in_flight, ledger.parquet) == (1, 10)
    assert [fault for fault in ledger.faults if "raw messages" not in fault] == []
    pipeline.sinking.run()
    ledger = pipeline.ledger()
    assert (ledger.in_flight, ledger.parquet, ledger.refused) == (0, 10, 1)
    assert [fault for fault in ledger.faults if "raw messages" not in fault] == []


def test_an_empty_stack_is_balanced(pipeline: Pipeline) -> None:
    assert pipeline.ledger().exit_code == 0


def test_an_extra_result_is_reported(pipeline: Pipeline) -> None:
    pipeline.send(good=10)
    pipeline.run()
    twin = pipeline.pricing.results()[0]
    produce(pipeline.stack.kafka, pipeline.pricing.result, [Raw(twin.value, twin.key)])
    pipeline.sinking.run()
    ledger = pipeline.ledger()
    assert ledger.exit_code == 1
    assert "10 raw messages were processed, but there are 11 results" in ledger.faults[0]


def test_a_missing_document_is_reported(pipeline: Pipeline) -> None:
    pipeline.send(good=10)
    pipeline.run()
    ride_id = next(iter(pipeline.sinking.documents()))
    pipeline.stack.elasticsearch.delete(index=pipeline.sinking.index, id=ride_id, refresh=True)
    ledger = pipeline.ledger()
    assert (ledger.elasticsearch, ledger.exit_code) == (9, 1)
    assert ledger.faults == ["Elasticsearch holds 9 rides, not 10"]


@pytest.mark.parametrize("fault", ["lost", "doubled"])
def test_a_missing_or_extra_object_is_reported(pipeline: Pipeline, fault: str) -> None:
    pipeline.send(good=10)
    pipeline.run()
    bucket = pipeline.stack.gcs.bucket(pipeline.exporting.bucket)
    name, content = next(iter(pipeline.exporting.objects().items()))
    if fault == "lost":
        bucket.blob(name).delete()
    else:
        bucket.blob(name.replace(".parquet", "-twin.parquet")).upload_from_string(content)
    ledger = pipeline.ledger()
    assert ledger.exit_code == 1
    assert ledger.faults[0].startswith("Parquet holds")


def test_replayed_dead_letters_are_counted_separately(pipeline: Pipeline) -> None:
    pipeline.send(good=5, bad=3)
    pipeline.run()
    sources = DEAD_LETTERS.resolve_sources(pipeline.settings)
    assert replay(pipeline.stack.kafka, pipeline.pricing.dlq, REPLAY_GROUP, sources, 1).sent.total() == 3
    assert replay(pipeline.stack.kafka, pipeline.pricing.dlq, REPLAY_GROUP, sources, 1).sent.total() == 0
    pipeline.pricing.run()
    ledger = pipeline.ledger()
    assert (ledger.raw, ledger.dlq, ledger.replayed, ledger.exit_code) == (11, 6, 3, 0)
    assert replay(pipeline.stack.kafka, pipeline.pricing.dlq, REPLAY_GROUP, sources, 1).left == 3


def test_rejected_results_are_not_reported_as_missing(pipeline: Pipeline) -> None:
    pipeline.send(good=5)
    produce(pipeline.stack.kafka, pipeline.pricing.result, [Raw(b"no result", b"k")])
    pipeline.run()
    ledger = pipeline.ledger()
    # The invalid message is a result without a raw message; the sinks themselves balance.
    assert (ledger.refused, ledger.parquet, ledger.elasticsearch) == (1, 5, 5)
    assert (ledger.dlq, ledger.dlq_by_reason) == (0, {})
    assert [fault for fault in ledger.faults if "raw messages" not in fault] == []


def test_records_deleted_by_retention_prevent_a_verdict(pipeline: Pipeline) -> None:
    pipeline.send(good=30)
    pipeline.run()
    admin = AdminClient(pipeline.stack.kafka)
    first = [TopicPartition(pipeline.pricing.source, partition, 1) for partition in range(6)]
    # Wait: a ledger cannot be taken while records are being deleted.
    for deleted in admin.delete_records(first).values():
        deleted.result(30)
    ledger = pipeline.ledger()
    assert ledger.raw < 30
    assert (ledger.balanced, ledger.exit_code) == (None, 3)


# --- Foreign transactions -------------------------------------------------------------------------


@pytest.fixture
def kafka_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put Kafka's own tool on the PATH, as in its archive."""
    jars.fetch({"kafka", "kafka-tools"})
    class_path = ":".join(str(jar.path) for name in ("kafka", "kafka-tools") for jar in jars.read_locked(name))
    script = tmp_path / "bin" / "kafka-transactions.sh"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexec "{runtime.executable()}" -cp "{class_path}" -Dlog4j2.level=ERROR '
        'org.apache.kafka.tools.TransactionsCommand "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return str(script)


@contextmanager
def open_transaction(pipeline: Pipeline, topic: str) -> Iterator[str]:
    """A foreign transaction that stays open in partition 3; yields its transactional id."""
    name = f"foreign-{uuid4().hex[:8]}"
    producer = transactional(pipeline.stack.kafka, name)
    send(producer, topic, [Raw(b"whatever", b"k", partition=3)])
    assert producer.flush(30) == 0
    try:
        yield name
    finally:
        producer.abort_transaction(30)
        until(lambda: held(pipeline, topic) == [], "the end of the foreign transaction")


def held(pipeline: Pipeline, topic: str) -> list[HeldBack]:
    with open_consumer(pipeline.stack.kafka, "looker") as client:
        return list_held_back(topic, read_bounds(pipeline.stack.kafka, client, topic, range(6)))


@pytest.mark.parametrize("place", ["raw", "result", "dlq"])
def test_messages_held_back_by_a_foreign_transaction_are_pending(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, kafka_transactions: str, place: str
) -> None:
    monkeypatch.setattr(snapshot, "SETTLE_S", 0.1)
    pipeline.send(good=30, bad=6)
    pipeline.run()
    topic = {"raw": pipeline.pricing.source, "result": pipeline.pricing.result, "dlq": pipeline.pricing.dlq}[place]
    first = len([record for record in read_visible(pipeline.stack.kafka, topic) if record.partition == 3])
    with open_transaction(pipeline, topic) as name:
        ledger = pipeline.ledger()
        assert (ledger.faults, ledger.balanced, ledger.exit_code) == ([], True, 2)
        (part,) = ledger.held_back
        assert (part.topic, part.partition, part.count) == (topic, 3, 1)
        assert part.first >= first
        (line,) = describe_held_back(pipeline.stack.kafka, ledger.held_back)
        assert line == f"{topic}[3]: 1 offsets from {part.first} on, by the transactional id {name}"
        if place != "dlq":
            group = pipeline.pricing.group if place == "raw" else pipeline.sinking.group
            assert read_lag(pipeline.stack.kafka, topic, group) == Lag(1, [part])
    assert pipeline.ledger().held_back == []


def test_without_the_kafka_tool_the_command_is_shown(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    parts = [HeldBack("rides_result", 3, 120, 7)]
    held, who = describe_held_back(pipeline.stack.kafka, parts)
    assert held == "rides_result[3]: 7 offsets from 120 on"
    assert "kafka-transactions.sh --bootstrap-server" in who
    assert "describe-producers --topic rides_result --partition 3" in who
    assert describe_held_back(pipeline.stack.kafka, []) == []


def test_results_behind_a_foreign_transaction_are_not_lost(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SETTLE_S", 0.1)
    with open_transaction(pipeline, pipeline.pricing.result):
        pipeline.send(good=30)
        pipeline.pricing.run()
        ledger = pipeline.ledger()
        assert ledger.result < 30, "some are in the partition that is held back"
        assert (ledger.faults, ledger.exit_code) == ([], 2)
        # Messages that are not held back are lost.
        lost = max(ledger.held_back, key=lambda part: part.count)
        pipeline.send(good=lost.count + 1)
        offsets = pipeline.pricing.offsets()
        pipeline.pricing.set_offsets(
            {partition: (offsets[partition] or 0) + len(rest) for partition, rest in unread(pipeline).items()}
        )
        ledger = pipeline.ledger()
        assert ledger.exit_code == 1, "more are missing than are held back"


def test_dead_letters_behind_a_foreign_transaction_are_not_lost(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "SETTLE_S", 0.1)
    with open_transaction(pipeline, pipeline.pricing.dlq):
        produce(pipeline.stack.kafka, pipeline.pricing.result, [keyed(result(comfort="none")) for _ in range(40)])
        pipeline.sinking.run()
        pipeline.exporting.run()
        ledger = pipeline.ledger()
        assert ledger.refused < 40, "some are in the partition that is held back"
        assert [fault for fault in ledger.faults if "raw messages" not in fault] == []


def unread(pipeline: Pipeline) -> dict[int, list[Record]]:
    offsets = pipeline.pricing.offsets()
    rest: dict[int, list[Record]] = {partition: [] for partition in range(6)}
    for record in read_visible(pipeline.stack.kafka, pipeline.pricing.source):
        if record.offset >= (offsets[record.partition] or 0):
            rest[record.partition].append(record)
    return rest


# --- Verdicts -------------------------------------------------------------------------------------


def test_foreign_dead_letters_are_neither_lost_nor_replayed(pipeline: Pipeline) -> None:
    pipeline.send(good=10, bad=2)
    pipeline.run()
    errors = [("__connect.errors.topic", pipeline.pricing.source.encode()), ("__connect.errors.offset", b"0")]
    ours = [("__connect.errors.connector.name", b"their-sink"), ("__connect.errors.partition", b"0")]
    foreign = [Raw(b"{}", b"k", [*errors, *ours]), Raw(b"{}", b"k"), Raw(b"{}", b"k", errors)]
    produce(pipeline.stack.kafka, pipeline.pricing.dlq, foreign)
    ledger = pipeline.ledger()
    assert (ledger.dlq, ledger.foreign, ledger.faults, ledger.exit_code) == (2, 3, [], 0)
    sources = DEAD_LETTERS.resolve_sources(pipeline.settings)
    done = replay(pipeline.stack.kafka, pipeline.pricing.dlq, REPLAY_GROUP, sources, 1)
    assert (done.sent.total(), done.foreign) == (2, 3)
    window = reprocess.parse_window("2026-01-01", "2026-02-01")
    work = reprocess.plan_work(Systems(pipeline.settings, may_write=True), window)
    assert len(work.rides) == 10, "foreign dead letters exclude no ride"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"DATASTREAM_STATE": "/dev/null/state"}, "Not a directory"),
        ({"CHUNK_RECORDS": "many"}, "CHUNK_RECORDS"),
        ({"ELASTICSEARCH_URL": "no url"}, "no url"),
    ],
)
def test_a_ledger_without_a_verdict_has_exit_code_3(pipeline: Pipeline, changes: dict[str, str], text: str) -> None:
    variables = {**os.environ, **export_settings(pipeline.settings), "COLUMNS": "200"} | changes
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "ledger"],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert text in done.stderr


def test_lag_counts_the_messages_that_a_group_has_not_read(
    pipeline: Pipeline, fresh_name: Callable[[str], str]
) -> None:
    pipeline.send(good=7)
    assert read_lag(pipeline.stack.kafka, pipeline.pricing.source, fresh_name("nobody")).offsets == 7
    pipeline.run()
    assert read_lag(pipeline.stack.kafka, pipeline.pricing.source, "dag_compute_cost") == Lag(0, [])
