"""A backup of the warehouse, and the drill that restores it. `make test-backup` breaks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.shop.database import DBT, connect
from tests.testkit.backup import Backups


def test_the_drill_restores_what_was_backed_up(warehouse: Any, tmp_path: Path) -> None:
    backups = Backups(warehouse, tmp_path / "backups")
    assert "there is no complete backup" in backups.fail_to_drill()
    backups.fill(1000)
    with connect(warehouse, DBT) as database:  # without a number, as failed rows of a test can be
        database.execute("create table dbt_test_failures.names as select 'a' as name")
    made = backups.back_up()
    backups.fill(10)
    recorded = "select file, bytes, rows, started_at < finished_at, finished_at <= now() from ops.backups"
    size = (made / "data_warehouse.dump").stat().st_size
    assert backups.query(recorded) == [(made.name, size, 1001, True, True)]
    assert {path.stat().st_mode & 0o077 for path in (made, *made.iterdir())} == {0}
    output = backups.drill()
    assert "1,000     5  raw.transactions_raw" in output
    assert "✓ Rows, sums, checksums, owners and rights of 14 tables equal the manifest." in output
    assert "+10 rows in raw since" in output
    assert max(map(len, output.splitlines()[1:])) <= 80
    assert backups.list_scratch_databases() == []
    assert backups.query("select count(*) from raw.transactions_raw") == [(1010,)]
    (made / "data_warehouse.dump").write_bytes((made / "data_warehouse.dump").read_bytes()[:-1])
    assert f"is cut short: it has {size - 1} of {size} bytes" in backups.fail_to_drill()
