"""shop_transactions → PostgreSQL and shop_dlq exactly once, after kills, retries and resets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from infra.local.environment import export_settings
from jobs.errors import OffsetsError, ServiceUnavailableError
from jobs.kafka.set_offsets import preview_moves, set_offsets
from jobs.kafka.topic_ids import TopicIds
from jobs.settings import ROOT
from shop_transactions import TYPED_FAULTS, UNTYPED_FAULTS, Transaction, draw_live, encode
from tests.testkit.kafka import Raw, aborted, commit, delete_all_records, read_all
from tests.testkit.shop import Loading, transaction
from tests.testkit.wait import DEADLINE_S
from tests.testkit.warehouse import empty_warehouse

pytestmark = pytest.mark.timeout(120)

BAD = b"not json"


def assert_once(loading: Loading) -> None:
    """Each message of the topic is a row, a repeat of one, or one dead letter; positions and group have passed all."""
    raws = read_all(loading.config, loading.source)
    dead = Counter((int(letter.error["partition"]), int(letter.error["offset"])) for letter in loading.dead_letters())
    assert set(dead.values()) <= {1}
    refusals = loading.query('SELECT partition, "offset" FROM raw.load_refusals')
    assert set(refusals) == set(dead)
    good = [json.loads(raw.value or b"") for raw in raws if (raw.partition, raw.offset) not in dead]
    rows = loading.query("SELECT transaction_id FROM raw.transactions_raw")
    assert {identifier for (identifier,) in rows} == {content["transaction_id"] for content in good}
    ((count, inserted, refused),) = loading.query("SELECT sum(rows), sum(inserted), sum(refused) FROM raw.load_batches")
    assert (count, inserted, refused) == (len(raws), len(rows), len(dead))
    for raw in raws:
        assert loading.positions()[raw.partition] > raw.offset
    assert {partition: offset for partition, offset in loading.group_offsets().items() if offset is not None} == (
        loading.positions()
    )


def some_messages(count: int) -> list[dict[str, Any] | Raw]:
    """Every fifth is not a transaction."""
    return [Raw(BAD, b"%d" % number) if number % 5 == 4 else transaction() for number in range(count)]


# --- Without failures -----------------------------------------------------------------------------


def test_rows_are_what_was_sent(loading: Loading) -> None:
    content = transaction(montant="1234567890.50", date="2026-11-01T12:30:00.000001+02:00", client_id=-1)
    usual = transaction(montant=0.1)
    loading.send(content, usual)
    assert loading.run().inserted == 2
    rows = loading.query(
        "SELECT transaction_id, client_id, montant, date::text, statut, updated_at::text, kafka_offset IS NOT NULL "
        "FROM raw.transactions_raw ORDER BY montant"
    )
    assert rows == [
        (usual["transaction_id"], 7, Decimal("0.10"), "2026-11-01 10:00:00+00", "success",
         "2026-11-01 10:05:00+00", True),
        (content["transaction_id"], -1, Decimal("1234567890.50"), "2026-11-01 10:30:00.000001+00", "success",
         "2026-11-01 10:05:00+00", True),
    ]  # fmt: skip
    assert_once(loading)
    assert loading.stage() is None


def test_each_untyped_message_is_one_dead_letter(loading: Loading) -> None:
    drawn = draw_live(7, 0)
    values = {label.encode(): fault(next(drawn)) for label, fault in UNTYPED_FAULTS.items()}
    loading.send(transaction(), *(Raw(value, label, [("trace", b"\x00\xff")]) for label, value in values.items()))
    reasons = Counter(label.partition("/")[0] for label in UNTYPED_FAULTS)
    assert loading.run().refused == reasons
    letters = loading.dead_letters()
    assert {letter.key: letter.value for letter in letters} == values
    for letter in letters:
        assert (letter.headers or [])[0] == ("trace", b"\x00\xff")
        assert letter.error["exception.class.name"] == (letter.key or b"").decode().partition("/")[0]
        assert letter.error["exception.message"]
        assert (letter.error["task.id"], letter.error["stage"]) == ("LoadTransactions", "TASK_PUT")
    assert loading.query("SELECT reason, count(*) FROM raw.load_refusals GROUP BY 1 ORDER BY 1") == sorted(
        reasons.items()
    )
    assert_once(loading)


def test_what_is_typed_and_wrong_is_kept(loading: Loading) -> None:
    drawn = draw_live(7, 0)
    wrong: list[Transaction] = [fault(next(drawn)) for fault in TYPED_FAULTS.values()]
    loading.send(*(Raw(encode(item), item.transaction_id.encode()) for item in wrong))
    assert loading.run().inserted == len(TYPED_FAULTS)
    assert loading.dead_letters() == []
    assert_once(loading)


@pytest.mark.parametrize("is_same_run", [True, False])
def test_a_transaction_never_changes_its_facts(loading: Loading, *, is_same_run: bool) -> None:
    changes = [{"montant": 12.51}, {"client_id": 8}, {"produit_id": 4}, {"date": "2026-11-01T10:00:00.000001Z"}]
    firsts = [transaction(statut="pending") for _ in changes]
    loading.send(*firsts)
    if not is_same_run:
        loading.run()
    newer = {"statut": "failed", "updated_at": "2026-11-02T10:00:00Z"}
    loading.send(*(first | change | newer for first, change in zip(firsts, changes, strict=True)))
    assert loading.run().refused == {"conflicting_transaction": 4}
    rows = loading.query("SELECT DISTINCT montant, client_id, produit_id, date::text, statut FROM raw.transactions_raw")
    assert rows == [(Decimal("12.50"), 7, 3, "2026-11-01 10:00:00+00", "pending")]
    assert all("12.50" in letter.error["exception.message"] for letter in loading.dead_letters())
    assert_once(loading)


# The first and the second status with their minute, the status that stays, and how the second is counted.
CHANGES = [
    (("pending", 0), ("success", 1), "success", "updated"),
    (("success", 1), ("pending", 0), "success", "stale"),
    (("pending", 0), ("failed", 0), "failed", "updated"),
    (("failed", 0), ("pending", 0), "failed", "stale"),
    (("failed", 1), ("success", 0), "failed", "stale"),
    (("success", 0), ("success", 0), "success", "repeated"),
    (("success", 0), ("success", 9), "success", "repeated"),
]


@pytest.mark.parametrize("is_same_run", [True, False])
def test_an_older_status_never_overwrites(loading: Loading, *, is_same_run: bool) -> None:
    pairs = []
    for number, (first, second, _, _) in enumerate(CHANGES):
        content = transaction(transaction_id=f"TXN{number}")
        pairs.append(
            [
                content | {"statut": status, "updated_at": f"2026-11-02T10:0{minute}:00Z"}
                for status, minute in (first, second)
            ]
        )
    loading.send(*(first for first, _ in pairs))
    before = []
    if not is_same_run:
        loading.run()
        before = loading.query("SELECT transaction_id, ingested_at FROM raw.transactions_raw")
    loading.send(*(second for _, second in pairs))
    loaded = loading.run()
    counts = Counter(counted for *_, counted in CHANGES)
    assert {name: getattr(loaded, name) for name in counts} == counts
    assert loading.query("SELECT statut FROM raw.transactions_raw ORDER BY transaction_id") == [
        (final,) for _, _, final, _ in CHANGES
    ]
    if before:
        # dbt reads the rows that have a new ingested_at.
        after = loading.query("SELECT transaction_id, ingested_at FROM raw.transactions_raw")
        updated = {f"TXN{number}" for number, change in enumerate(CHANGES) if change[3] == "updated"}
        assert {identifier for identifier, _ in set(after) - set(before)} == updated
    assert_once(loading)


def test_statuses_of_one_transaction_may_arrive_in_any_order(loading: Loading) -> None:
    content = transaction()
    statuses = [("pending", 1), ("pending", 3), ("failed", 2), ("success", 4), ("pending", 4), ("success", 2)]
    for status, minute in statuses:
        loading.send(content | {"statut": status, "updated_at": f"2026-11-02T10:0{minute}:00Z"})
    loading.run()
    assert loading.query("SELECT statut, updated_at::text FROM raw.transactions_raw") == [
        ("success", "2026-11-02 10:04:00+00")
    ]
    assert_once(loading)


def test_a_message_without_updated_at_has_the_time_of_the_order(loading: Loading) -> None:
    content = transaction(statut="success")
    del content["updated_at"]
    loading.send(content, content | {"statut": "pending"})
    assert loading.run().stale == 1
    assert loading.query("SELECT statut, updated_at = date FROM raw.transactions_raw") == [("success", True)]


def test_rows_that_came_straight_in_follow_the_same_rules(loading: Loading) -> None:
    content = transaction(statut="pending")
    with loading.database() as database:
        database.execute(
            "INSERT INTO transactions_raw (transaction_id, client_id, produit_id, montant, date, statut, updated_at) "
            "VALUES (%(transaction_id)s, %(client_id)s, %(produit_id)s, %(montant)s, %(date)s, %(statut)s, "
            "%(updated_at)s)",
            content,
        )
    newer = {"updated_at": "2026-11-03T00:00:00Z"}
    loading.send(content, content | {"statut": "failed"} | newer, content | {"montant": 1} | newer)
    loaded = loading.run()
    assert (loaded.inserted, loaded.repeated, loaded.updated) == (0, 1, 1)
    assert loaded.refused == {"conflicting_transaction": 1}


def test_a_claim_of_transaction_markers_moves_the_position(loading: Loading) -> None:
    loading.send(transaction())
    loading.run()
    aborted(loading.config, loading.source, [Raw(BAD, b"1"), Raw(BAD, b"2")])
    before = sum(loading.positions().values())
    assert loading.run().count == 0
    assert sum(loading.positions().values()) > before
    assert loading.stage() is None
    assert loading.dead_letters() == []


# --- Kills ----------------------------------------------------------------------------------------

KILLED = """
    import os, signal, sys
    import psycopg
    from jobs.kafka.staged import read_manifest
    from jobs.kafka.transaction import GroupWriter
    from jobs.shop import load as loads
    from jobs.shop.dead_letters import publish_refusals
    from jobs.shop.vertical import ShopSettings
    from jobs.settings import load

    step, url, source, group, dlq = sys.argv[1:]
    settings = load(ShopSettings)
    count = 0

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "before the commit of the second chunk":
        write = loads._write_refusals
        def dying(*arguments):
            global count
            write(*arguments)
            count += 1
            if count == 2:
                die()
        loads._write_refusals = dying
    with loads.open_loader(settings) as database:
        loads.load(settings, read_manifest(url))
        if step == "after the database":
            die()
        if step == "before the commit of Kafka":
            import jobs.kafka.transaction as transactions
            call = transactions._call_with_timeout
            def dying(function, *arguments):
                if function.__name__ == "commit_transaction":
                    function.__self__.flush(30)
                    die()
                call(function, *arguments)
            transactions._call_with_timeout = dying
        publish_refusals({"bootstrap.servers": settings.bootstrap_servers}, database, topic=source, group=group,
            dlq_topic=dlq, dag_id="dag_load_transactions")
        die()
"""
STEPS = (
    "before the commit of the second chunk",
    "after the database",
    "before the commit of Kafka",
    "after the commit of Kafka",
)


@pytest.mark.parametrize("step", STEPS)
def test_sigkill_loses_and_doubles_nothing(loading: Loading, step: str) -> None:
    loading.send(*some_messages(60))
    manifest = loading.staged()
    url = loading.folder.child("killed").write_manifest(manifest)
    arguments = [step, url, loading.source, loading.group, loading.dlq]
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), *arguments],
        cwd=ROOT,
        env=os.environ | export_settings(loading.settings),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    rows = len(loading.query("SELECT FROM raw.transactions_raw"))
    assert 0 < rows < 48 if step == STEPS[0] else rows == 48
    # The retry of the killed task, then the next run.
    if step == STEPS[2]:
        loading.publish()
    else:
        loading.load(manifest)
    assert loading.stage() is None
    assert_once(loading)
    loading.send(*some_messages(10))
    loading.run()
    assert_once(loading)


def test_a_retry_loads_nothing_twice(loading: Loading) -> None:
    loading.send(*some_messages(30))
    manifest = loading.staged()
    loading.load(manifest)
    assert loading.load(manifest).count == 0
    loading.publish()
    loading.publish()
    assert loading.load(manifest).count == 0
    assert_once(loading)


def test_two_workers_at_the_same_time(loading: Loading) -> None:
    loading.send(*some_messages(300))
    manifests = [loading.staged(), loading.staged()]
    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(loading.load, manifests))
        assert sum(part.count for part in loaded) == 300

        def publish(_: int) -> int:
            try:
                return loading.publish().refused.total()
            except ServiceUnavailableError:  # the other one has taken over
                return 0

        published = list(pool.map(publish, range(2)))
    assert sum(published) == 60
    assert_once(loading)


def test_a_part_of_a_chunk_that_is_loaded_is_skipped(loading: Loading) -> None:
    """Another worker has cut other chunks."""
    loading.send(*some_messages(50))
    wide = msgspec.structs.replace(loading.limits, chunk_records=1000)
    manifest = loading.staged()
    loading.limits = msgspec.structs.replace(wide, run_records=27)
    loading.load(loading.staged())
    loading.limits = wide
    assert loading.load(manifest).count == 50 - 27
    loading.publish()
    assert_once(loading)


def test_a_position_before_the_claim_is_an_error(loading: Loading) -> None:
    loading.send(*some_messages(20))
    loading.run()
    loading.send(*some_messages(20))
    manifest = loading.staged()
    with loading.database() as database:
        database.execute("UPDATE raw.load_offsets SET next_offset = 0")
    with pytest.raises(OffsetsError, match="set back"):
        loading.load(manifest)


# --- The Kafka group is a copy --------------------------------------------------------------------


def reset_by_kafka(loading: Loading) -> None:
    commit(loading.config, loading.group, loading.source, dict.fromkeys(range(6), 0))


def reset_by_this_project(loading: Loading) -> None:
    topic_ids = TopicIds(loading.folder)
    moves = preview_moves(loading.config, loading.source, loading.group, "beginning", topic_ids=topic_ids)
    set_offsets(loading.config, moves, topic_ids)


def delete_both_groups(loading: Loading) -> None:
    admin = AdminClient(loading.config)  # must live until the answers arrive
    answers = admin.delete_consumer_groups([loading.group, f"{loading.group}.kept"])
    for answer in answers.values():
        answer.result(DEADLINE_S)


@pytest.mark.parametrize("reset", [reset_by_kafka, reset_by_this_project, delete_both_groups])
def test_a_reset_group_is_repaired(loading: Loading, reset: Callable[[Loading], None]) -> None:
    loading.send(*some_messages(40))
    loading.run()
    reset(loading)
    assert loading.stage() is None
    assert_once(loading)
    loading.send(*some_messages(10))
    loading.run()
    assert_once(loading)


def test_dead_letters_of_a_killed_run_are_published_after_a_reset(loading: Loading) -> None:
    loading.send(*some_messages(40))
    loading.run()
    loading.send(*some_messages(40))
    loading.load(loading.staged())
    reset_by_this_project(loading)
    assert loading.stage() is None
    assert_once(loading)


def test_a_restored_database_loads_again_and_publishes_nothing_twice(loading: Loading) -> None:
    loading.send(*some_messages(40))
    loading.run()
    letters = loading.dead_letters()
    empty_warehouse(loading.settings)
    assert loading.run().inserted == 32
    loading.claim()
    assert loading.dead_letters() == letters
    assert_once(loading)


def test_a_warehouse_emptied_after_the_claim_passes_over_nothing(loading: Loading) -> None:
    loading.send(*some_messages(40))
    loading.run()
    loading.send(*some_messages(40))
    manifest = loading.staged()
    empty_warehouse(loading.settings)
    with pytest.raises(OffsetsError, match=r"restored or emptied.*Nothing was loaded"):
        loading.load(manifest)
    assert loading.positions() == {}
    loading.run()
    assert_once(loading)


def test_messages_that_retention_deleted_are_an_error(loading: Loading) -> None:
    loading.send(*some_messages(40))
    loading.run()
    loading.send(*some_messages(40))
    delete_all_records(loading.config, loading.source)
    with pytest.raises(OffsetsError, match="retention has deleted"):
        loading.claim()


def test_a_recreated_topic_is_an_error(loading: Loading, make_topic: Callable[..., str]) -> None:
    loading.send(*some_messages(10))
    loading.run()
    with loading.database() as database:
        database.execute("UPDATE raw.load_offsets SET topic_id = 'another'")
    with pytest.raises(OffsetsError, match="recreated"):
        loading.claim()
