"""PostgreSQL without Docker, and what each role may do in the warehouse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest

from infra.local.environment import export_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from infra.postgres import DEVELOPMENT_PASSWORD, set_up
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.settings import ROOT
from jobs.shop.database import ADMIN, DBT, ENGINEER, LOADER, MONITOR, PASSWORDS, READER, connect
from tests.testkit.wait import until

# As in the exercise that the shop follows.
INSERT = """
    INSERT INTO transactions_raw (transaction_id, client_id, produit_id, montant, date, statut)
    VALUES ('TXN1', 1, 1, 12.30, '2026-11-01T10:00:00', 'success')
"""
TABLES = ("transactions_raw", "clients", "produits", "load_offsets", "load_refusals", "load_batches")
CREATE = "create table {schema}.mine (id integer)"

ALLOWED = [
    (ENGINEER, INSERT),
    (LOADER, INSERT),
    (LOADER, "insert into raw.load_offsets values ('shop', 0, 1, 'id') on conflict (topic, partition) do nothing"),
    (LOADER, "update raw.transactions_raw set statut = 'failed', ingested_at = clock_timestamp()"),
    (LOADER, "update raw.load_offsets set next_offset = 1"),
    (LOADER, "insert into raw.load_refusals values ('shop', 0, 0, 'invalid_json', '')"),
    (LOADER, "create temporary table batch (like raw.transactions_raw) on commit drop"),
    (DBT, "create temporary table batch (like raw.transactions_raw) on commit drop"),
    *((DBT, CREATE.format(schema=schema)) for schema in ("staging", "marts", "snapshots", "dbt_test_failures", "ops")),
    *((role, f"select from raw.{table}") for role in (LOADER, DBT, READER, ENGINEER) for table in TABLES),
    *((role, "select from ops.dbt_results") for role in (DBT, READER, ENGINEER)),
]

FORBIDDEN = [
    *((role, CREATE.format(schema=schema)) for role in (LOADER, ENGINEER) for schema in ("raw", "public", "marts")),
    *((DBT, CREATE.format(schema=schema)) for schema in ("raw", "public")),
    *((role, "create schema mine") for role in (LOADER, DBT, ENGINEER)),
    *((role, "create role mine") for role in (LOADER, DBT, ENGINEER)),
    *(
        (role, f"{verb} raw.{table}")
        for verb in ("delete from", "truncate", "drop table")
        for role in (LOADER, DBT, ENGINEER)
        for table in TABLES
    ),
    *((role, "set role warehouse_owner") for role in (LOADER, DBT, ENGINEER, READER)),
    *((role, "set role postgres") for role in (LOADER, DBT, ENGINEER, READER)),
    *((role, "copy (select 1) to program 'true'") for role in (LOADER, DBT, ENGINEER)),
    *((role, "select from ops.dbt_results") for role in (LOADER,)),
    *((role, "insert into ops.dbt_results values ('', '', '', '', '', 0, 0, '', now())") for role in (ENGINEER,)),
    (LOADER, "update raw.load_refusals set reason = ''"),
    (LOADER, "update raw.load_batches set rows = 0"),
    (LOADER, "update raw.transactions_raw set montant = 0"),
    (LOADER, "update raw.clients set nom = ''"),
    (ENGINEER, INSERT.replace("statut)", "statut, ingested_at)").replace("'success')", "'success', '2999-01-01')")),
    (DBT, INSERT),
    (DBT, "update raw.transactions_raw set montant = 0"),
    (ENGINEER, "update raw.transactions_raw set montant = 0"),
    (ENGINEER, "insert into raw.clients values (1, '', '', now())"),
    (ENGINEER, "create temporary table batch (id integer)"),
]


def run(settings: Any, role: str, statement: str) -> None:
    """Run a statement and take it back."""
    with connect(settings, role) as database:
        database.execute(statement)
        database.rollback()


@pytest.mark.parametrize(("role", "statement"), ALLOWED)
def test_a_role_may(warehouse: Any, role: str, statement: str) -> None:
    run(warehouse, role, statement)


@pytest.mark.parametrize(("role", "statement"), FORBIDDEN)
def test_a_role_may_not(running_warehouse: Any, role: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(running_warehouse, role, statement)


@pytest.mark.parametrize(
    "statement", [INSERT, "create table marts.mine (id integer)", "delete from raw.clients", "truncate marts.x"]
)
def test_the_reader_only_reads(running_warehouse: Any, statement: str) -> None:
    errors = (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.UndefinedTable)
    with pytest.raises(errors):
        run(running_warehouse, READER, statement)
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)):
        run(running_warehouse, READER, f"set transaction read write; {statement}")


def test_the_monitor_reads_statistics_but_no_rows(running_warehouse: Any) -> None:
    with connect(running_warehouse, MONITOR) as database:
        assert database.execute("select pg_database_size('postgres') > 0").fetchone() == (True,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(running_warehouse, MONITOR, "select from raw.transactions_raw")


def test_only_the_administrator_has_rights_over_the_server(running_warehouse: Any) -> None:
    with connect(running_warehouse, ADMIN) as database:
        mighty = database.execute(
            "select rolname from pg_roles where rolname !~ '^pg_' and (rolsuper or rolcreatedb or rolcreaterole "
            "or rolreplication or rolbypassrls)"
        ).fetchall()
    assert mighty == [(ADMIN,)]


@pytest.mark.parametrize("role", [role for role in PASSWORDS if role != ADMIN])
def test_a_role_may_not_enter_other_databases(running_warehouse: Any, role: str) -> None:
    for database in ("postgres", "template1"):
        with pytest.raises(ConfigurationError, match=r"permission denied for database"):
            connect(running_warehouse, role, dbname=database)


def test_bi_reader_cannot_read_raw_data(running_warehouse: Any) -> None:
    with connect(running_warehouse, ADMIN) as database:
        database.execute("set role bi_reader")
        database.execute("select from ops.dbt_results")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute("select from raw.transactions_raw")


def test_a_second_set_up_changes_nothing(warehouse: Any) -> None:
    def describe() -> list[tuple[Any, ...]]:
        with connect(warehouse, ADMIN) as database:
            return database.execute(
                "select n.nspname, c.relname, c.relowner::regrole::text, c.relacl::text, n.nspacl::text "
                "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
                "where n.nspname !~ '^pg_|information_schema' union all "
                "select '', datname, datdba::regrole::text, datacl::text, '' from pg_database union all "
                "select '', rolname, '', rolconfig::text, '' from pg_roles order by 1, 2, 3, 4, 5"
            ).fetchall()

    with connect(warehouse, ENGINEER) as database:
        database.execute(INSERT)
    before = describe()
    set_up(warehouse)
    assert describe() == before
    with connect(warehouse, READER) as database:
        assert database.execute("select count(*) from transactions_raw").fetchone() == (1,)


def test_the_command_sets_up_the_warehouse(running_warehouse: Any) -> None:
    command = [sys.executable, "-m", "infra.postgres"]
    variables = {**os.environ, **export_settings(running_warehouse)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    variables["SHOP_POSTGRES_PORT"] = "1"
    failed = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert failed.returncode == 3
    assert failed.stderr.startswith("error: PostgreSQL at 127.0.0.1:1 does not answer")
    assert "docker compose --profile shop up" in failed.stderr


def test_a_server_that_does_not_answer_is_named(running_warehouse: Any) -> None:
    with pytest.raises(ServiceUnavailableError, match=r"PostgreSQL at 127\.0\.0\.1:1 does not answer.*VERTICAL=shop"):
        connect(running_warehouse.model_copy(update={"shop_postgres_port": 1}), READER)


def test_the_server_does_not_run_as_root_and_keeps_its_data(warehouse: Any) -> None:
    with connect(warehouse, ENGINEER) as database:
        database.execute(INSERT)
    paths = Paths(warehouse.datastream_state)
    pid = supervisor.read_states(paths)["postgres"].pid
    process = psutil.Process(pid)
    assert process.uids().effective != 0
    assert (paths.service("postgres") / "data").stat().st_uid == process.uids().effective
    process.kill()
    process.wait(30)
    local_stack(warehouse).up(["postgres"])
    with connect(warehouse, READER) as database:
        assert database.execute("select count(*) from transactions_raw").fetchone() == (1,)


@pytest.fixture
def guarded_warehouse(running_warehouse: Any) -> Iterator[Any]:
    """The warehouse while its server asks for all passwords, and has the development default, as in Docker."""
    rules = Paths(running_warehouse.datastream_state).service("postgres") / "data" / "pg_hba.conf"
    trusting, given = rules.read_text(), running_warehouse.shop_postgres_password

    def apply(text: str, password: str, new_password: str) -> None:
        rules.write_text(text)
        with connect(running_warehouse, ADMIN, password=password) as database:
            database.execute("select pg_reload_conf()")
            database.execute(f"alter role postgres password '{new_password}'")

    apply("host all all 127.0.0.1/32 scram-sha-256\n", given, DEVELOPMENT_PASSWORD)
    try:
        yield running_warehouse.model_copy(update={"shop_postgres_password": DEVELOPMENT_PASSWORD})
    finally:
        apply(trusting, "new-postgres", given)
        set_up(running_warehouse)


def test_a_set_up_changes_the_passwords_of_all_roles(guarded_warehouse: Any) -> None:
    def is_accepted(settings: Any, role: str) -> bool:
        try:
            connect(settings, role).close()
        except ConfigurationError:
            return False
        return True

    new = guarded_warehouse.model_copy(update={setting: f"new-{role}" for role, setting in PASSWORDS.items()})
    until(lambda: not is_accepted(new, LOADER), "the new rules")
    assert all(is_accepted(guarded_warehouse, role) for role in PASSWORDS), "the development default"
    set_up(new)
    assert all(is_accepted(new, role) for role in PASSWORDS)
    assert not any(is_accepted(guarded_warehouse, role) for role in PASSWORDS)
    set_up(new)
    assert all(is_accepted(new, role) for role in PASSWORDS)
    unknown = new.model_copy(update={"shop_postgres_password": "another"})
    with pytest.raises(ConfigurationError, match=r"rejects postgres: .*SHOP_POSTGRES_PASSWORD"):
        set_up(unknown)
