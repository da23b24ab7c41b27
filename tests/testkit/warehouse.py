"""A real PostgreSQL with the shop's warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.shop.database import ADMIN, connect
from tests.testkit.stack import guarded

# Tables in dbt's schemas that infra/postgres makes.
WRITTEN = ("ops.dbt_results", "ops.backups", "marts.revenue_forecast", "marts.revenue_forecast_evaluation")


@contextmanager
def run_warehouse(*others: str, **changes: Any) -> Iterator[Any]:
    """The settings of a new warehouse on a free port, and of other services that run with it.

    Args:
        others: names of the other services.
        changes: settings by their names.
    """
    settings = isolated_settings(**changes)
    with guarded(settings.datastream_state):
        local_stack(settings).up(["postgres", *others])
        yield settings


def empty_warehouse(settings: Any) -> None:
    """Delete all rows, and everything that dbt has made."""
    with connect(settings, ADMIN) as database:
        tables = database.execute("select tablename from pg_tables where schemaname = 'raw'").fetchall()
        database.execute("truncate " + ", ".join(f"raw.{table}" for (table,) in tables))
        database.execute(f"truncate {', '.join(WRITTEN)}")
        for schema, name, kind in database.execute(
            "select table_schema, table_name, table_type from information_schema.tables "
            "where table_schema in ('staging', 'marts', 'snapshots', 'dbt_test_failures')"
        ).fetchall():
            if f"{schema}.{name}" in WRITTEN:
                continue
            database.execute(f'drop {"view" if kind == "VIEW" else "table"} if exists {schema}."{name}" cascade')
