"""Build the shop's marts with dbt: all of them from nothing, and again after some new transactions."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.measure import FailedError
from benchmarks.stacks import start_stack
from jobs.shop.database import ADMIN, connect
from jobs.shop.transform import run_command

NEW = 10_000
# Unit tests have rows of their own and belong to `make test`.
_BUILD = ("build", "--exclude-resource-type", "unit_test")
_CLIENTS, _PRODUCTS = 1_000, 100
# `first` numbers the rows; `age` is how long ago they were loaded.
_ADD = """
INSERT INTO raw.transactions_raw
    (transaction_id, client_id, produit_id, montant, date, statut, updated_at, ingested_at)
SELECT 'TXN' || n, 1 + n %% %(clients)s, 1 + n %% %(products)s, 1 + n %% 500, now() - %(age)s - n * interval '5 s',
    (ARRAY['success', 'success', 'success', 'failed', 'pending'])[1 + n %% 5], now() - %(age)s, now() - %(age)s
FROM generate_series(%(first)s, %(first)s + %(count)s - 1) n
"""
_PEOPLE = """
INSERT INTO raw.clients SELECT n, 'Client ' || n, 'Paris', '2026-01-01' FROM generate_series(1, %(clients)s) n;
INSERT INTO raw.produits SELECT n, 'Product ' || n, 'Books', 10 FROM generate_series(1, %(products)s) n
"""


class Marts(msgspec.Struct, frozen=True):
    """Seconds of `dbt build` with `rows` transactions, and of the next one after NEW more."""

    rows: int
    first_s: float
    next_s: float


def measure(console: Console, rows: int) -> Marts:
    """
    Raises:
        FailedError: dbt failed, or a transaction is in no mart.
    """
    with start_stack(("kafka", "postgres"), console) as started:
        settings: Any = started
        counts = {"clients": _CLIENTS, "products": _PRODUCTS}
        _execute(settings, *(statement % counts for statement in _PEOPLE.split(";")))
        _add(settings, 0, rows, "1 day")
        first = _build(settings, rows)
        _add(settings, rows, NEW, "0 s")
        return Marts(rows, first, _build(settings, rows + NEW))


def _add(settings: Any, first: int, count: int, age: str) -> None:
    with closing(connect(settings, ADMIN, autocommit=True)) as database:
        place = {"clients": _CLIENTS, "products": _PRODUCTS, "first": first, "count": count}
        database.execute(_ADD.replace("%(age)s", f"interval '{age}'"), place)
        database.execute("ANALYZE raw.transactions_raw")


def _execute(settings: Any, *statements: str) -> None:
    with closing(connect(settings, ADMIN, autocommit=True)) as database:
        for statement in statements:
            database.execute(statement.encode())


def _build(settings: Any, rows: int) -> float:
    begun = time.monotonic()
    run_command(settings, _BUILD, "bench", lambda _: None, Path(settings.datastream_state) / "dbt").check()
    seconds = time.monotonic() - begun
    with closing(connect(settings, ADMIN)) as database:
        ((found,),) = database.execute(
            "SELECT (SELECT count(*) FROM marts.fct_transactions) + (SELECT count(*) FROM marts.rejected_transactions)"
        )
    if found != rows:
        raise FailedError(f"{rows} transactions are in raw, {found} in the marts")
    return seconds


def show(marts: Marts, console: Console) -> None:
    console.print(
        f"dbt build on {marts.rows:,} transactions: {marts.first_s:.1f} s; after {NEW:,} new ones: {marts.next_s:.1f} s"
    )
