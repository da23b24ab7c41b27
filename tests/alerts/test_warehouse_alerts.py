"""`make test-alerts`, second part: the warehouse gets old, breaks a rule, is not backed up. Needs no Airflow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.shop.database import ADMIN, BACKUP, LOADER, connect
from jobs.shop.transform import Node, Results, record_results
from tests.alerts.arrivals import assert_in_time, expect, expect_recovery
from tests.alerts.scaled import Watch, watch
from tests.testkit.stack import guarded
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    own = isolated_settings(observability_ledger_minutes=0)
    with guarded(own.datastream_state):
        local_stack(own).up(["kafka", "postgres", "exporter"])
        yield own


@pytest.fixture(scope="module")
def watched(settings: Any) -> Iterator[Watch]:
    with tempfile.TemporaryDirectory() as folder, watch(settings, Path(folder)) as found:
        until(lambda: "Watchdog" in found.list_firing(), "the rules are evaluated")
        yield found


def change(settings: Any, role: str, *statements: str) -> None:
    """Write into the warehouse, whose ages Prometheus does not scale."""
    with connect(settings, role) as database:
        for statement in statements:
            database.execute(statement)


def test_no_transaction_arrives_any_more(settings: Any, watched: Watch) -> None:
    transaction = (
        "insert into raw.transactions_raw (transaction_id, client_id, produit_id, montant, date, statut, ingested_at) "
        "values ('{}', 1, 1, 1, now(), 'success', now() - interval '{}')"
    )
    cause = time.time()
    change(settings, ADMIN, transaction.format("old", "61 minutes"))
    assert_in_time(watched, "WarehouseStale")
    expect(watched, "WarehouseStale", cause)
    repaired = time.time()
    change(settings, LOADER, transaction.format("new", "0 s"))
    expect_recovery(watched, "WarehouseStale", repaired)


def test_a_test_of_dbt_fails(settings: Any, watched: Watch) -> None:
    def record(status: str) -> None:
        node = Node(f"test.shop.{status}", status, 0.1, datetime.now(UTC), failures=1)
        record_results(settings, Results("test", uuid4().hex, (node,)), "run")

    cause = time.time()
    record("fail")
    assert_in_time(watched, "DbtTestsFailed")
    expect(watched, "DbtTestsFailed", cause)
    repaired = time.time()
    record("pass")
    expect_recovery(watched, "DbtTestsFailed", repaired)


def test_no_backup_is_made(settings: Any, watched: Watch) -> None:
    batch = (
        "insert into raw.load_batches (loaded_at, rows, inserted, updated, repeated, stale, refused) "
        "values (now() - interval '27 hours', 1, 1, 0, 0, 0, 0)"
    )
    cause = time.time()
    change(settings, ADMIN, batch)
    assert_in_time(watched, "BackupStale")
    expect(watched, "BackupStale", cause)
    repaired = time.time()
    change(settings, BACKUP, "insert into ops.backups values ('new.dump', now(), now(), 1, 1)")
    expect_recovery(watched, "BackupStale", repaired)
