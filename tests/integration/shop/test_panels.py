"""Each panel of Grafana that asks the warehouse shows something; the exporter's series say how old its content is."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.grafana.builder import Sql
from jobs.shop.database import ADMIN, BACKUP, DBT, ENGINEER, FORECAST, LOADER, connect
from jobs.shop.series import read_series
from jobs.shop.transform import Node, Results, record_results, run_command
from tests.testkit.grafana import count_rows, list_queries

NEWEST, FIRST, BACKED_UP = (
    f"datastream_warehouse_{name}_timestamp_seconds" for name in ("last_ingested", "first_loaded", "last_backup")
)
FAILED = "datastream_dbt_failed_tests"


def run(settings: Any, role: str, *statements: str) -> None:
    with connect(settings, role) as database:
        for statement in statements:
            database.execute(statement)


def read(settings: Any) -> dict[str, float]:
    values = {sample.name: sample.value for metric in read_series(settings) for sample in metric.samples}
    assert values.pop("datastream_warehouse_backup_interval_seconds") == 24 * 3_600
    return values


@pytest.fixture
def shop(warehouse: Any) -> Any:
    """A warehouse with good and bad rows of today, and with what other programs write about it."""
    run(
        warehouse, LOADER,
        "insert into raw.clients select g, 'Ada', 'Lyon', '2025-01-01' from generate_series(1, 3) g",
        "insert into raw.produits select g, 'Tea', 'drinks', 4.99 from generate_series(1, 3) g",
        "insert into raw.load_refusals (reason, detail) values ('conflicting_transaction', '')",
        "insert into raw.load_batches (rows, inserted, updated, repeated, stale, refused) values (4, 4, 0, 0, 0, 0)",
    )  # fmt: skip
    run(
        warehouse, ENGINEER,
        "insert into transactions_raw (transaction_id, client_id, produit_id, montant, date, statut) values "
        "('a', 1, 1, 10.01, now(), 'success'), ('b', 2, 2, 5, now(), 'failed'), ('c', 2, 1, 1, now(), 'pending'), "
        "('zero', 1, 1, 0, now(), 'success')",
    )  # fmt: skip
    run(warehouse, BACKUP, "insert into ops.backups values ('a.dump', now(), now(), 2048, 4)")
    run(
        warehouse, FORECAST,
        "insert into marts.revenue_forecast select current_date + g, 10, 8, 12, 9, current_date, now() "
        "from generate_series(1, 7) g",
    )  # fmt: skip
    return warehouse


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("dbt_environment")
def test_every_panel_of_the_warehouse_shows_something(shop: Any) -> None:
    command, log = ("build", "--resource-type", "model"), logging.getLogger(__name__).info
    run_command(shop, command, "test", log, shop.datastream_state / "dbt").check()
    assert FAILED not in read(shop)
    node = Node("test.shop.unique", "fail", 0.1, datetime.now(UTC), failures=2, relation='"db"."failures"."unique"')
    record_results(shop, Results("test", "newest", (node,)), "test")
    assert read(shop)[FAILED] == 1
    asked = [(panel, target) for _, panel, query, target in list_queries() if isinstance(query, Sql)]
    counts = {panel.title: count_rows(shop, panel, target) for panel, target in asked}
    assert len(counts) == len(asked) >= 15
    assert [title for title, count in counts.items() if not count] == []
    assert counts["Shop: forecast of the next 7 days"] == 7


def test_the_series_of_an_empty_warehouse_are_absent(warehouse: Any) -> None:
    assert read(warehouse) == {}


def test_the_series_say_how_old_rows_and_backups_are(shop: Any) -> None:
    before = read(shop)
    assert before.keys() == {NEWEST, FIRST, BACKED_UP}
    assert list(before.values()) == [pytest.approx(time.time(), abs=60)] * 3
    run(shop, ADMIN, "update raw.transactions_raw set ingested_at = ingested_at - interval '3 hours'")
    run(shop, BACKUP, "insert into ops.backups values ('older.dump', now(), now() - interval '1 day', 1, 1)")
    run(shop, LOADER, "insert into raw.load_batches (rows, inserted, updated, repeated, stale, refused) "
        "values (1, 0, 0, 1, 0, 0)")  # fmt: skip
    after = read(shop)
    assert after.pop(NEWEST) == pytest.approx(before.pop(NEWEST) - 3 * 3600, abs=1)
    assert after == before


def test_failed_tests_are_those_of_the_newest_run_that_tested(warehouse: Any) -> None:
    def record(invocation: str, age_min: int, **statuses: str) -> None:
        rows = [
            f"('{invocation}', '{kind}.shop.{status}', 'c', 'r', '{status}', 0, '', now() - interval '{age_min} min')"
            for kind, status in statuses.items()
        ]
        columns = "invocation_id, unique_id, command, run_id, status, execution_time_s, message, finished_at"
        run(warehouse, DBT, f"insert into ops.dbt_results ({columns}) values {', '.join(rows)}")

    record("older", 30, test="fail")
    assert read(warehouse) == {FAILED: 1}
    record("newer", 20, test="pass", model="error")
    assert read(warehouse) == {FAILED: 0}
    record("broken", 10, test="error")
    record("freshness", 0, source="error")
    assert read(warehouse) == {FAILED: 1}
