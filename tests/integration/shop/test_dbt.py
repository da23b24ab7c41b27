"""dbt on a real PostgreSQL: what becomes of each row, and what a second run changes."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from jobs.shop.database import ADMIN, DBT, ENGINEER, FORECAST, LOADER, READER, connect
from jobs.shop.transform import FailedTestsError, Results, run_command

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("dbt_environment")]

MARTS = (
    "fct_transactions",
    "rejected_transactions",
    "fct_daily_sales",
    "dim_customers",
    "dim_products",
    "mart_data_quality",
)
NOW = "2026-06-01 12:00Z"

# id, client, product, amount, date, status
VALID = [
    ("success", 1, 1, "10.01", NOW, "success"),
    ("failed", 1, 2, "20.02", NOW, "failed"),
    ("pending", 2, 1, "0.01", "2026-05-31 23:59Z", "pending"),
    ("late", 2, 2, "9999999999.99", "2026-01-01 00:00Z", "success"),
]
INVALID = {
    "nonpositive_amount": [("zero", 1, 1, "0", NOW, "success"), ("negative", 9, 1, "-5.55", NOW, "lost")],
    "unknown_status": [("status", 9, 1, "1.10", "2099-01-01", "SUCCESS"), ("empty", 1, 1, "1.20", NOW, "")],
    "future_date": [("future", 9, 1, "1.30", "2099-01-01", "success"), ("never", 1, 1, "1.31", "infinity", "success")],
    "unknown_client": [("client", 9, 9, "1.40", NOW, "success")],
    "unknown_product": [("product", 1, 9, "1.50", NOW, "success")],
}


def dbt(settings: Any, *command: str) -> Results:
    # All share dbt's cache of the parsed project.
    target = settings.datastream_state / "dbt"
    results = run_command(settings, command, "test", logging.getLogger(__name__).info, target)
    results.check()
    return results


def read(settings: Any, statement: str) -> list[tuple[Any, ...]]:
    with connect(settings, READER) as database:
        return database.execute(statement).fetchall()


def read_marts(settings: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Each mart's rows as text, because Python has no infinite dates."""
    return {mart: read(settings, f"select mart::text from marts.{mart} as mart order by 1") for mart in MARTS}


def read_versions(settings: Any) -> list[list[tuple[Any, ...]]]:
    """The place of each row of the incremental models, and the database transaction that wrote it."""
    marts = ("fct_transactions", "rejected_transactions")
    return [read(settings, f"select ctid::text, xmin::text from marts.{mart}") for mart in marts]


def insert(settings: Any, *rows: tuple[Any, ...]) -> None:
    columns = "transaction_id, client_id, produit_id, montant, date, statut"
    with connect(settings, ENGINEER) as database, database.cursor() as cursor:
        cursor.executemany(f"insert into transactions_raw ({columns}) values (%s, %s, %s, %s, %s, %s)", rows)


def change(settings: Any, transaction_id: str, status: str) -> None:
    with connect(settings, LOADER) as database:
        database.execute(
            "update raw.transactions_raw set statut = %s, updated_at = clock_timestamp(), "
            "ingested_at = clock_timestamp() where transaction_id = %s",
            [status, transaction_id],
        )


def place(settings: Any) -> tuple[set[str], dict[str, str]]:
    """The ids in fct_transactions, and those in rejected_transactions with their reasons."""
    accepted = {name for (name,) in read(settings, "select transaction_id from marts.fct_transactions")}
    return accepted, dict(read(settings, "select transaction_id, reject_reason from marts.rejected_transactions"))


def check_balance(settings: Any) -> None:
    """Raw data are equal to both marts together, in number and to the cent."""
    raw = read(settings, "select count(*), sum(montant) from raw.transactions_raw")
    marts = read(
        settings,
        "select count(*), sum(amount) from (select amount from marts.fct_transactions "
        "union all select amount from marts.rejected_transactions) as marts",
    )
    assert raw == marts


def read_history(settings: Any, transaction_id: str) -> list[tuple[Any, ...]]:
    with connect(settings, DBT) as database:
        return database.execute(
            "select status, dbt_valid_from, dbt_valid_to from snapshots.transactions_status "
            "where transaction_id = %s order by dbt_valid_from",
            [transaction_id],
        ).fetchall()


def check_rights(settings: Any) -> None:
    """Readers may read every mart, and change none that dbt makes."""
    for role in ("bi_reader", FORECAST):
        with connect(settings, ADMIN) as database:
            database.execute(f"set role {role}")
            assert all(database.execute(f"select count(*) from marts.{mart}").fetchone() for mart in MARTS)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.execute("delete from marts.fct_transactions")


def check_failed_test(settings: Any) -> None:
    """A failed test is named, leaves its rows, and is in ops.dbt_results."""
    with connect(settings, DBT) as database:
        database.execute(
            "insert into marts.rejected_transactions select transaction_id, customer_id, product_id, amount, "
            "occurred_at, status, 'unknown_status', updated_at, ingested_at from marts.fct_transactions "
            "where transaction_id = 'new'"
        )
    name = "transactions_are_in_one_mart"
    with pytest.raises(FailedTestsError, match=rf"1 of \d+ failed: {name} \(1 rows in .*dbt_test_failures\.{name}\)"):
        dbt(settings, "test", "--select", name, "positive_fct_transactions_amount")
    assert read(settings, f"select transaction_id from dbt_test_failures.{name}") == [("new",)]
    results = read(settings, "select unique_id, status, failures, run_id from ops.dbt_results where command ~ '^test'")
    assert sorted((row[0].split(".")[2], *row[1:]) for row in results) == [
        ("positive_fct_transactions_amount", "pass", 0, "test"),
        (name, "fail", 1, "test"),
    ]
    relation = "select relation from ops.dbt_results where status = 'fail'"
    assert read(settings, relation) == [(f'"data_warehouse"."dbt_test_failures"."{name}"',)]


@pytest.fixture
def shop(warehouse: Any) -> Any:
    with connect(warehouse, LOADER) as database:
        database.execute("insert into raw.clients select g, 'Ada', 'Lyon', '2025-01-01' from generate_series(1, 3) g")
        database.execute("insert into raw.produits select g, 'Tea', 'drinks', 4.99 from generate_series(1, 3) g")
    insert(warehouse, *VALID, *(row for rows in INVALID.values() for row in rows))
    return warehouse


def test_transactions_end_in_one_mart_and_move_when_they_change(shop: Any) -> None:
    dbt(shop, "run", "--empty")  # unit tests of incremental models need the table
    done = dbt(shop, "build")
    kinds = {node.unique_id.split(".")[0] for node in done.nodes}
    assert {"model", "test", "unit_test", "snapshot", "exposure"} <= kinds

    # Each bad row has its reason.
    accepted, rejected = place(shop)
    assert accepted == {row[0] for row in VALID}
    assert rejected == {row[0]: reason for reason, rows in INVALID.items() for row in rows}
    check_balance(shop)
    quality = dict(read(shop, "select reason, transactions from marts.mart_data_quality where outcome = 'rejected'"))
    assert quality == {reason: len(rows) for reason, rows in INVALID.items()}
    assert read(shop, "select outcome, transactions from marts.mart_data_quality where reason = '' order by 1") == [
        ("accepted", 4),
    ]
    assert read(shop, "select sum(revenue) from marts.fct_daily_sales") == [(Decimal("10000000010.00"),)]
    assert read(shop, "select occurred_on::text from marts.fct_transactions where transaction_id = 'pending'") == [
        ("2026-05-31",)
    ]
    assert read(shop, "select customer_id, orders, segment from marts.dim_customers order by 1") == [
        (1, 2, "new"), (2, 2, "active"), (3, 0, "prospect"),
    ]  # fmt: skip

    # A second run changes nothing, and writes no row of the incremental models again.
    before = read_marts(shop)
    versions = read_versions(shop)
    dbt(shop, "build", "--exclude-resource-type", "unit_test")
    assert read_marts(shop) == before
    assert read_versions(shop) == versions
    check_rights(shop)

    # Changes move transactions between the marts.
    change(shop, "pending", "success")
    change(shop, "empty", "failed")
    change(shop, "success", "lost")
    with connect(shop, LOADER) as database:
        database.execute("insert into raw.clients values (9, 'Bo', 'Nice', '2026-01-01')")
        database.execute("insert into raw.produits values (9, 'Cup', 'dishes', 1)")
    with connect(shop, ADMIN) as database:
        # A rejected transaction is looked at again, whatever its age.
        database.execute("update raw.transactions_raw set ingested_at = '2026-06-02' where transaction_id = 'client'")
    insert(shop, ("new", 9, 3, "3.00", NOW, "success"))
    dbt(shop, "build", "--resource-type", "model", "--resource-type", "snapshot")
    accepted, rejected = place(shop)
    assert accepted == {"failed", "pending", "late", "empty", "new", "client", "product"}
    assert rejected.pop("success") == "unknown_status"
    assert set(rejected) == {"zero", "negative", "status", "future", "never"}
    check_balance(shop)
    history = read_history(shop, "pending")
    assert [status for status, _, _ in history] == ["pending", "success"]
    assert history[0][2] == history[1][1]
    assert history[1][2] is None

    # A full refresh gives the same, and the readers keep their rights.
    before = read_marts(shop)
    dbt(shop, "run", "--full-refresh")
    assert read_marts(shop) == before
    check_balance(shop)
    check_rights(shop)

    check_failed_test(shop)


def test_a_source_without_new_rows_is_too_old(shop: Any) -> None:
    with connect(shop, ADMIN) as database:
        database.execute("update raw.transactions_raw set ingested_at = ingested_at - interval '61 minutes'")
    with pytest.raises(FailedTestsError, match=r"shop\.transactions_raw: the newest row is 36\d\d s old"):
        dbt(shop, "source", "freshness")
    statuses = "select status from ops.dbt_results where command = 'source freshness'"
    assert read(shop, statuses) == [("error",)]
