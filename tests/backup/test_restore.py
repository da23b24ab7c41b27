"""Restore drills of good and of broken backups, and a recovery."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.local.services.postgres import SERVICE, make_client_environment
from jobs.shop.database import ADMIN, DBT, ENGINEER, GRAFANA, LOADER, READER, connect
from tests.testkit.backup import Backups, stand_in
from tests.testkit.wait import until


def change(file: Path, pattern: str, replacement: str) -> None:
    """Change the one place of a manifest that matches."""
    text, count = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
    assert count == 1, pattern
    file.write_text(text)


@pytest.mark.parametrize("part", [0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_dump_cut_short(backups: Backups, part: float) -> None:
    dump = backups.back_up() / "data_warehouse.dump"
    size = dump.stat().st_size
    os.truncate(dump, int(size * part))
    reason = (
        f"{dump} is cut short: it has {int(size * part)} of {size} bytes" if part else f"{dump} is missing or empty"
    )
    assert reason in backups.fail_to_drill()
    assert backups.list_scratch_databases() == []


@pytest.mark.parametrize("part", [0.001, 0.2, 0.5, 0.9])
def test_a_dump_cut_short_that_the_manifest_calls_complete(backups: Backups, part: float) -> None:
    made = backups.back_up()
    dump = made / "data_warehouse.dump"
    os.truncate(dump, int(dump.stat().st_size * part))
    change(made / "manifest.tsv", r"^(backup\tbytes\t).*", rf"\g<1>{dump.stat().st_size}")
    change(made / "manifest.tsv", r"^(backup\tsha256\t).*", rf"\g<1>{hashlib.sha256(dump.read_bytes()).hexdigest()}")
    output = backups.fail_to_drill()
    assert "pg_restore: error:" in output
    assert f"cannot restore {dump}; the reason is above." in output
    assert backups.list_scratch_databases() == []


def test_a_changed_byte(backups: Backups) -> None:
    dump = backups.back_up() / "data_warehouse.dump"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    assert "was changed since it was written" in backups.fail_to_drill()


@pytest.mark.parametrize(
    ("pattern", "replacement", "reason"),
    [
        (
            r"^(raw.transactions_raw\trows\t)1000$",
            r"\g<1>1001",
            "raw.transactions_raw: rows is 1001 in the manifest, 1000 in the restored database",
        ),
        (
            r"^(raw.transactions_raw\tsum of montant\t).*$",
            r"\g<1>500510.01",
            "raw.transactions_raw: sum of montant is 500510.01 in the manifest, 500510.00 in the restored database",
        ),
        (r"^(raw.transactions_raw\tchecksum\t).*$", r"\g<1>1", "raw.transactions_raw: checksum is 1 in the manifest"),
        (r"^(raw.clients\towner\t).*$", r"\g<1>dbt", "raw.clients: owner is dbt in the manifest, warehouse_owner in"),
        (r"^(schema raw\trights\t)", r"\g<1>more ", "schema raw: rights is more data_engineer=U"),
        (r"^(raw.clients\trows\t0)$", r"\g<1>\nraw.gone\trows\t7", "raw.gone is missing in the restored database"),
        (r"^raw.load_offsets\t(?s:.*)^raw.load_refusals\trows.*\n", "", "raw.load_offsets: checksum is missing in"),
    ],
)
def test_what_differs_is_named(backups: Backups, pattern: str, replacement: str, reason: str) -> None:
    made = backups.back_up()
    change(made / "manifest.tsv", pattern, replacement)
    output = backups.fail_to_drill()
    assert reason in output
    assert "the restored database differs from" in output
    assert backups.list_scratch_databases() == []


@pytest.mark.parametrize("file", ["data_warehouse.dump", "manifest.tsv", "globals.sql"])
def test_a_file_that_is_missing_is_named_with_the_backup_before(backups: Backups, file: str) -> None:
    made = backups.back_up()
    older = backups.folder / "20200101T000000.000Z"
    older.mkdir()
    (made / file).unlink()
    output = backups.fail_to_drill()
    assert f"{made / file} is missing or empty" in output
    assert f"the one before is {older}" in output


def test_an_unfinished_backup_is_ignored(backups: Backups) -> None:
    made = backups.back_up()
    (backups.folder / ".unfinished-29990101T000000.000Z").mkdir()
    assert f"Backup {made}\n" in backups.drill()


def test_no_backup(backups: Backups) -> None:
    assert "there is no complete backup" in backups.fail_to_drill()
    backups.folder.mkdir()
    assert "Make one: make backup" in backups.fail_to_drill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_drill_leaves_no_database(backups: Backups, tmp_path: Path, number: int) -> None:
    backups.back_up()
    started = tmp_path / "started"
    text = f'"$REAL" "$@"; echo $$ >{started}.new; mv {started}.new {started}; exec sleep 300'
    variables = stand_in(tmp_path / "stand-ins", backups.settings, "pg_restore", text)
    process = backups.start("restore_drill.sh", ADMIN, **variables)
    until(started.exists, "pg_restore")
    assert len(backups.list_scratch_databases()) == 1
    process.send_signal(number)
    if number == signal.SIGKILL:
        process.wait(10)
        assert "another backup or restore drill" in backups.fail_to_drill(), "pg_restore still runs"
        os.kill(int(started.read_text()), signal.SIGKILL)
    else:
        process.communicate(timeout=30)
    backups.wait_until_unused()
    assert number == signal.SIGKILL or backups.list_scratch_databases() == []
    assert "✓" in backups.drill()
    assert backups.list_scratch_databases() == []


def test_a_drill_changes_nothing_in_the_warehouse(backups: Backups) -> None:
    backups.back_up()
    before = describe(backups)
    backups.drill()
    assert describe(backups) == before


def describe(backups: Backups) -> list[tuple[Any, ...]]:
    """Rows, owners, rights, settings, keys and views of the warehouse."""
    return backups.query("""
        select nspname || '.' || relname, relkind::text, relowner::regrole::text,
            (select string_agg(entry::text, ' ' order by entry::text)
             from unnest(coalesce(relacl, acldefault('r', relowner))) as entry)
        from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where nspname !~ '^pg_|information_schema' and relkind <> 'S'
        union all select nspname, 'schema', nspowner::regrole::text, nspacl::text from pg_namespace
        where nspname !~ '^pg_|information_schema'
        union all select 'database', datdba::regrole::text, datacl::text, encoding::text || datlocale
        from pg_database where datname = 'data_warehouse'
        union all select 'setting', setconfig::text, '', '' from pg_db_role_setting
        join pg_database on pg_database.oid = setdatabase where datname = 'data_warehouse'
        union all select 'defaults', defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclacl::text
        from pg_default_acl
        union all select conrelid::regclass::text, conname, pg_get_constraintdef(pg_constraint.oid), ''
        from pg_constraint join pg_namespace on pg_namespace.oid = connamespace
        where nspname !~ '^pg_|information_schema'
        union all select 'row', (transactions_raw)::text, '', '' from raw.transactions_raw
        order by 1, 2, 3, 4
    """)


def test_a_recovery_brings_back_rows_owners_and_rights(backups: Backups) -> None:
    """The commands of docs/shop.md."""
    with connect(backups.settings, DBT) as database:
        database.execute("create view staging.seen as select client_id from raw.transactions_raw")
    made = backups.back_up()
    before = describe(backups)
    with connect(backups.settings, ADMIN) as database:
        database.execute("drop schema marts cascade; truncate raw.transactions_raw")
    commands = f"""
        set -e
        psql -d postgres -c "alter database data_warehouse allow_connections false" \
            -c "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'data_warehouse'" \
            -c "alter database data_warehouse rename to data_warehouse_broken"
        pg_restore --exit-on-error --create --dbname postgres {made}/data_warehouse.dump
    """
    environment = make_client_environment(backups.settings, ADMIN)
    subprocess.run(["bash", "-c", commands], env=environment, check=True, capture_output=True, timeout=60)
    # warehouse-init, or make local-up
    SERVICE.finish(backups.settings)
    # The backup was recorded after the snapshot.
    assert describe(backups) == before
    with connect(backups.settings, LOADER) as database:
        database.execute(
            "insert into transactions_raw (transaction_id, client_id, produit_id, montant, date, statut) "
            "values ('TXN1', 1, 1, 1, now(), 'pending')"
        )
        database.execute("update transactions_raw set statut = 'success' where transaction_id = 'TXN1'")
        database.execute(
            "insert into raw.load_batches (rows, inserted, updated, repeated, stale, refused) values (1, 1, 0, 0, 0, 0)"
        )
    with connect(backups.settings, ENGINEER) as database, pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute("delete from transactions_raw")
    for role, statement in (
        (READER, "select from raw.transactions_raw"),
        (GRAFANA, "select from ops.backups"),
        (DBT, "create or replace view staging.seen as select client_id from raw.transactions_raw"),
    ):
        with connect(backups.settings, role) as database:
            database.execute(statement)
    with connect(backups.settings, ADMIN, dbname="postgres", autocommit=True) as database:
        database.execute("drop database data_warehouse_broken")
    backups.back_up()
    assert "✓" in backups.drill()
