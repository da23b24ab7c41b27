"""The ledger tells what is lost, doubled or on its way: each figure counted at systems that hold just that."""

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
from jobs.rides.ops import ledger as ledger_module
from jobs.rides.ops import reprocess
from jobs.rides.vertical import DEAD_LETTERS, REPLAY_GROUP
from jobs.settings import ROOT
from tests.testkit.flow import Books
from tests.testkit.kafka import Raw, Record, produce, read_visible, send, transactional
from tests.testkit.rides import keyed, result
from tests.testkit.wait import until


def test_all_through(books: Books) -> None:
    books.send(good=30, bad=4, twice=3)
    books.run()
    found = books.ledger()
    assert (found.raw, found.result, found.duplicates, found.dlq) == (37, 33, 3, 4)
    assert (found.elasticsearch, found.parquet, found.pending, found.in_flight) == (30, 33, 0, 0)
    assert found.dlq_by_reason == {"invalid_json": 4}
    assert (found.faults, found.balanced, found.exit_code) == ([], True, 0)


def test_on_its_way_to_the_price_and_to_the_sinks(books: Books) -> None:
    books.send(good=10)
    books.run()
    books.send(good=5)
    found = books.ledger()
    assert (found.pending, found.in_flight, found.balanced, found.exit_code) == (5, 0, True, 2)
    books.pricing.run()
    found = books.ledger()
    assert (found.pending, found.in_flight, found.balanced, found.exit_code) == (0, 5, True, 2)
    # Both sinks hold more than their groups have committed.
    written, staged = books.sinking.write(), books.exporting.staged()
    books.exporting.write(staged)
    found = books.ledger()
    assert (found.in_flight, found.balanced, found.exit_code) == (5, True, 2)
    books.sinking.commit(*written)
    found = books.ledger()
    assert (found.in_flight, found.balanced, found.exit_code) == (5, True, 2)
    books.exporting.commit(staged)
    found = books.ledger()
    assert (found.elasticsearch, found.parquet, found.in_flight, found.exit_code) == (15, 15, 0, 0)


def test_the_export_may_be_ahead_of_the_index(books: Books) -> None:
    books.send(good=10)
    books.run()
    produce(books.stack.kafka, books.pricing.result, [Raw(b"no result", b"k")])
    books.exporting.run()
    found = books.ledger()
    assert (found.in_flight, found.parquet) == (1, 10)
    assert [fault for fault in found.faults if "raw messages" not in fault] == []
    books.sinking.run()
    found = books.ledger()
    assert (found.in_flight, found.parquet, found.refused) == (0, 10, 1)
    assert [fault for fault in found.faults if "raw messages" not in fault] == []


def test_nothing_at_all_is_balanced(books: Books) -> None:
    assert books.ledger().exit_code == 0


def test_a_result_too_many(books: Books) -> None:
    books.send(good=10)
    books.run()
    twin = books.pricing.results()[0]
    produce(books.stack.kafka, books.pricing.result, [Raw(twin.value, twin.key)])
    books.sinking.run()
    found = books.ledger()
    assert found.exit_code == 1
    assert "10 raw messages are done with, but there are 11 results" in found.faults[0]


def test_a_document_too_few(books: Books) -> None:
    books.send(good=10)
    books.run()
    ride_id = next(iter(books.sinking.documents()))
    books.stack.elasticsearch.delete(index=books.sinking.index, id=ride_id, refresh=True)
    found = books.ledger()
    assert (found.elasticsearch, found.exit_code) == (9, 1)
    assert found.faults == ["Elasticsearch holds 9 rides, not 10"]


@pytest.mark.parametrize("fault", ["lost", "doubled"])
def test_an_object_too_few_or_too_many(books: Books, fault: str) -> None:
    books.send(good=10)
    books.run()
    bucket = books.stack.gcs.bucket(books.exporting.bucket)
    name, content = next(iter(books.exporting.objects().items()))
    if fault == "lost":
        bucket.blob(name).delete()
    else:
        bucket.blob(name.replace(".parquet", "-twin.parquet")).upload_from_string(content)
    found = books.ledger()
    assert found.exit_code == 1
    assert found.faults[0].startswith("Parquet holds")


def test_replayed_letters_are_counted_apart(books: Books) -> None:
    books.send(good=5, bad=3)
    books.run()
    sources = DEAD_LETTERS.resolve_sources(books.settings)
    assert replay(books.stack.kafka, books.pricing.dlq, REPLAY_GROUP, sources, 1).sent.total() == 3
    assert replay(books.stack.kafka, books.pricing.dlq, REPLAY_GROUP, sources, 1).sent.total() == 0
    books.pricing.run()
    found = books.ledger()
    assert (found.raw, found.dlq, found.replayed, found.exit_code) == (11, 6, 3, 0)
    assert replay(books.stack.kafka, books.pricing.dlq, REPLAY_GROUP, sources, 1).left == 3


def test_refused_results_are_not_missed(books: Books) -> None:
    books.send(good=5)
    produce(books.stack.kafka, books.pricing.result, [Raw(b"no result", b"k")])
    books.run()
    found = books.ledger()
    # The odd message is a result that no raw message stands behind; the sinks themselves add up.
    assert (found.refused, found.parquet, found.elasticsearch) == (1, 5, 5)
    assert (found.dlq, found.dlq_by_reason) == (0, {})
    assert [fault for fault in found.faults if "raw messages" not in fault] == []


def test_retention_leaves_nothing_to_tell(books: Books) -> None:
    books.send(good=30)
    books.run()
    admin = AdminClient(books.stack.kafka)
    first = [TopicPartition(books.pricing.source, partition, 1) for partition in range(6)]
    # Waited for: a ledger that reads while records go cannot be taken.
    for deleted in admin.delete_records(first).values():
        deleted.result(30)
    found = books.ledger()
    assert found.raw < 30
    assert (found.balanced, found.exit_code) == (None, 3)


# --- Transactions of strangers -----------------------------------------------------------------


@pytest.fixture
def kafka_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kafka's own tool on the PATH, as its archive has it."""
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
def open_transaction(books: Books, topic: str) -> Iterator[str]:
    """A stranger's transaction that stays open in partition 3; its transactional id."""
    name = f"stranger-{uuid4().hex[:8]}"
    producer = transactional(books.stack.kafka, name)
    send(producer, topic, [Raw(b"whatever", b"k", partition=3)])
    assert producer.flush(30) == 0
    try:
        yield name
    finally:
        producer.abort_transaction(30)
        until(lambda: held(books, topic) == [], "the end of the stranger's transaction")


def held(books: Books, topic: str) -> list[HeldBack]:
    with open_consumer(books.stack.kafka, "looker") as client:
        return list_held_back(topic, read_bounds(books.stack.kafka, client, topic, range(6)))


@pytest.mark.parametrize("place", ["raw", "result", "dlq"])
def test_what_a_stranger_holds_back_is_never_balanced(
    books: Books, monkeypatch: pytest.MonkeyPatch, kafka_transactions: str, place: str
) -> None:
    monkeypatch.setattr(ledger_module, "SETTLE_S", 0.1)
    books.send(good=30, bad=6)
    books.run()
    topic = {"raw": books.pricing.source, "result": books.pricing.result, "dlq": books.pricing.dlq}[place]
    first = len([it for it in read_visible(books.stack.kafka, topic) if it.partition == 3])
    with open_transaction(books, topic) as name:
        found = books.ledger()
        assert (found.faults, found.balanced, found.exit_code) == ([], True, 2)
        (it,) = found.held_back
        assert (it.topic, it.partition, it.count) == (topic, 3, 1)
        assert it.first >= first
        (line,) = describe_held_back(books.stack.kafka, found.held_back)
        assert line == f"{topic}[3]: 1 offsets from {it.first} on, by the transactional id {name}"
        if place != "dlq":
            group = books.pricing.group if place == "raw" else books.sinking.group
            assert read_lag(books.stack.kafka, topic, group) == Lag(1, [it])
    assert books.ledger().held_back == []


def test_without_the_tool_the_command_to_ask_it_is_told(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = [HeldBack("rides_result", 3, 120, 7)]
    held, who = describe_held_back(books.stack.kafka, found)
    assert held == "rides_result[3]: 7 offsets from 120 on"
    assert "kafka-transactions.sh --bootstrap-server" in who
    assert "describe-producers --topic rides_result --partition 3" in who
    assert describe_held_back(books.stack.kafka, []) == []


def test_our_own_results_behind_a_strangers_transaction_are_not_lost(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SETTLE_S", 0.1)
    with open_transaction(books, books.pricing.result):
        books.send(good=30)
        books.pricing.run()
        found = books.ledger()
        assert found.result < 30, "some are in the partition that is held back"
        assert (found.faults, found.exit_code) == ([], 2)
        # What nobody holds back is missing for sure.
        lost = max(found.held_back, key=lambda it: it.count)
        books.send(good=lost.count + 1)
        at = books.pricing.offsets()
        books.pricing.set_offsets({it: (at[it] or 0) + len(rest) for it, rest in unread(books).items()})
        found = books.ledger()
        assert found.exit_code == 1, "more are missing than are held back"


def test_refusals_behind_a_strangers_transaction_are_not_lost(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "SETTLE_S", 0.1)
    with open_transaction(books, books.pricing.dlq):
        produce(books.stack.kafka, books.pricing.result, [keyed(result(comfort="none")) for _ in range(40)])
        books.sinking.run()
        books.exporting.run()
        found = books.ledger()
        assert found.refused < 40, "some are in the partition that is held back"
        assert [fault for fault in found.faults if "raw messages" not in fault] == []


def unread(books: Books) -> dict[int, list[Record]]:
    at = books.pricing.offsets()
    rest: dict[int, list[Record]] = {it: [] for it in range(6)}
    for record in read_visible(books.stack.kafka, books.pricing.source):
        if record.offset >= (at[record.partition] or 0):
            rest[record.partition].append(record)
    return rest


# --- Verdicts ----------------------------------------------------------------------------------


def test_foreign_dead_letters_are_neither_lost_nor_replayed(books: Books) -> None:
    books.send(good=10, bad=2)
    books.run()
    errors = [("__connect.errors.topic", books.pricing.source.encode()), ("__connect.errors.offset", b"0")]
    ours = [("__connect.errors.connector.name", b"their-sink"), ("__connect.errors.partition", b"0")]
    foreign = [Raw(b"{}", b"k", [*errors, *ours]), Raw(b"{}", b"k"), Raw(b"{}", b"k", errors)]
    produce(books.stack.kafka, books.pricing.dlq, foreign)
    found = books.ledger()
    assert (found.dlq, found.foreign, found.faults, found.exit_code) == (2, 3, [], 0)
    sources = DEAD_LETTERS.resolve_sources(books.settings)
    done = replay(books.stack.kafka, books.pricing.dlq, REPLAY_GROUP, sources, 1)
    assert (done.sent.total(), done.foreign) == (2, 3)
    window = reprocess.window("2026-01-01", "2026-02-01")
    work = reprocess.look(Systems(books.settings, may_write=True), window)
    assert len(work.rides) == 10, "a stranger's dead letter leaves no ride out"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"DATASTREAM_STATE": "/dev/null/state"}, "Not a directory"),
        ({"CHUNK_RECORDS": "many"}, "CHUNK_RECORDS"),
        ({"ELASTICSEARCH_URL": "no url"}, "no url"),
    ],
)
def test_whatever_keeps_the_ledger_from_a_verdict_ends_with_3(books: Books, changes: dict[str, str], text: str) -> None:
    variables = {**os.environ, **export_settings(books.settings), "COLUMNS": "200"} | changes
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "ledger"],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert text in done.stderr


def test_lag_is_what_a_group_has_to_pass(books: Books, fresh_name: Callable[[str], str]) -> None:
    books.send(good=7)
    assert read_lag(books.stack.kafka, books.pricing.source, fresh_name("nobody")).offsets == 7
    books.run()
    assert read_lag(books.stack.kafka, books.pricing.source, "dag_compute_cost") == Lag(0, [])
