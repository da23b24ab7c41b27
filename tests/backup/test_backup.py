"""Backups that are made while rows come in, interrupted, twice at once, on a full disk, without a server."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from infra.local.runner import ports
from jobs.shop.database import ADMIN, BACKUP, LOADER, connect
from tests.testkit.backup import FILL, Backups, stand_in
from tests.testkit.wait import until

# A table that the role of the backups may replace, as dbt replaces one.
CREATE = """
grant usage, create on schema raw to shop_backup;
set role shop_backup;
create table raw.made as select n as id from generate_series(1, 1000) as n;
"""
REPLACE = """
begin;
create table raw.made__new as select n as id from generate_series(1, 1000) as n;
drop table raw.made;
alter table raw.made__new rename to made;
commit;
"""
DROP = """
drop table if exists raw.made;
revoke all on schema raw from shop_backup;
"""


@contextmanager
def repeating(settings: Any, role: str, statement: str) -> Iterator[list[int]]:
    """Run a statement again and again in transactions of its own."""
    is_over, done, failures = Event(), [0], []

    def repeat() -> None:
        try:
            with connect(settings, role, autocommit=True) as database:
                while not is_over.is_set():
                    with database.transaction():
                        database.execute(statement)
                    done[0] += 1
        except Exception as error:
            failures.append(error)

    thread = Thread(target=repeat)
    thread.start()
    try:
        until(lambda: done[0] > 0 or bool(failures), "first statement")
        yield done
    finally:
        is_over.set()
        thread.join(60)
    assert failures == []


def test_a_backup_is_of_one_moment_while_rows_come_in(backups: Backups) -> None:
    change = "update raw.transactions_raw set statut = 'failed', ingested_at = clock_timestamp() where client_id < 500"
    with (
        repeating(backups.settings, LOADER, FILL.format(rows=20)) as inserts,
        repeating(backups.settings, LOADER, change),
    ):
        for _ in range(3):
            before = inserts[0]
            backups.back_up()
            assert "✓" in backups.drill()
            until(lambda before=before: inserts[0] > before, "rows come in")


def test_a_table_cannot_be_replaced_between_snapshot_and_dump(backups: Backups, tmp_path: Path) -> None:
    """The rows of the new table are not in the snapshot."""
    with connect(backups.settings, ADMIN) as database:
        database.execute(CREATE)
    text = f"""
        psql -qX <<<"set role shop_backup; set lock_timeout = '1s'; {REPLACE}" 2>&1 | tee {tmp_path}/refused
        exec "$REAL" "$@"
    """
    try:
        made = backups.back_up(**stand_in(tmp_path / "stand-ins", backups.settings, "pg_dump", text))
        assert "lock timeout" in (tmp_path / "refused").read_text()
        assert "raw.made\trows\t1000\n" in (made / "manifest.tsv").read_text()
        assert "1,000     1  raw.made" in backups.drill()
    finally:
        with connect(backups.settings, ADMIN) as database:
            database.execute(DROP)


def test_a_dump_that_waits_for_a_lock_is_tried_again(backups: Backups, tmp_path: Path) -> None:
    """A replacement of a table that queues between the two sessions would block both."""
    text = f"""
        test -e "$0.once" && exec "$REAL" "$@"
        touch "$0.once"
        psql -qX <<<"{REPLACE}" &
        until test "$(psql -qXAtc "select count(*) from pg_locks where not granted")" = 1; do :; done
        "$REAL" "$@"
    """
    with connect(backups.settings, ADMIN) as database:
        database.execute(CREATE)
    try:
        made = backups.back_up(**stand_in(tmp_path / "stand-ins", backups.settings, "pg_dump", text))
        assert (tmp_path / "stand-ins" / "pg_dump.once").exists()
        assert "raw.made\trows\t1000\n" in (made / "manifest.tsv").read_text()
        assert "1,000     1  raw.made" in backups.drill()
    finally:
        with connect(backups.settings, ADMIN) as database:
            database.execute(DROP)


# A program that the script calls, the moment, and a word of its arguments.
STAGES = [
    ("psql", "before", "dump.sql"),
    ("pg_dump", "before", ""),
    ("pg_dump", "after", ""),
    ("pg_dumpall", "before", ""),
    ("pg_restore", "before", ""),
    ("sync", "before", "manifest"),
    ("sync", "after", "manifest"),
    ("mv", "before", ""),
    ("mv", "after", ""),
    ("psql", "before", "file="),
]


@pytest.mark.parametrize(("program", "moment", "word"), STAGES)
def test_a_kill_leaves_older_backups_and_the_next_run_works(
    backups: Backups, tmp_path: Path, program: str, moment: str, word: str
) -> None:
    older = backups.back_up()
    kill = 'kill -9 "$VICTIM"'
    steps = [kill, '"$REAL" "$@"'] if moment == "before" else ['"$REAL" "$@"', kill]
    text = f'[[ "$*" == *"{word}"* ]] || exec "$REAL" "$@"\n' + "\n".join(steps)
    variables = stand_in(tmp_path / "stand-ins", backups.settings, program, text)
    code, output = backups.run("backup.sh", BACKUP, **variables)
    assert code == -signal.SIGKILL, output
    backups.wait_until_unused()
    assert older.exists() or (moment == "before" and "file=" in word), "rotated only after the new one is complete"
    assert "✓" in backups.drill()
    made = backups.back_up()
    assert (backups.names, backups.unfinished) == ([made.name], []), "one is kept of each day"
    assert "✓" in backups.drill()


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_an_interrupted_backup_removes_its_files(backups: Backups, tmp_path: Path, number: int, code: int) -> None:
    older = backups.back_up()
    started = tmp_path / "started"
    text = f'echo half >"$BACKUP_DUMP"; echo $$ >{started}.new; mv {started}.new {started}; exec sleep 300'
    variables = stand_in(tmp_path / "stand-ins", backups.settings, "pg_dump", text)
    process = backups.start("backup.sh", BACKUP, **variables)
    until(started.exists, "pg_dump")
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert (backups.names, backups.unfinished) == ([older.name], [])
    until(lambda: has_ended(int(started.read_text())), "pg_dump ends")


def test_a_second_backup_at_the_same_time_fails(backups: Backups, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    text = f'touch {started}; until test -e {go}; do :; done; exec "$REAL" "$@"'
    first = backups.start("backup.sh", BACKUP, **stand_in(tmp_path / "stand-ins", backups.settings, "pg_dump", text))
    until(started.exists, "pg_dump")
    assert "another backup or restore drill uses" in backups.fail_to_back_up()
    go.touch()
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    assert backups.unfinished == []
    assert backups.query("select count(*) from ops.backups") == [(1,)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"may not mount a file system: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_noticed_beforehand(backups: Backups, small_disk: Path) -> None:
    on_disk = Backups(backups.settings, small_disk)
    output = on_disk.fail_to_back_up()
    assert "is full: 3 MiB are free, a backup needs about" in output, "the database's size"
    assert "Free some space" in output
    assert (on_disk.names, on_disk.unfinished) == ([], [])


def test_a_disk_that_gets_full_meanwhile(backups: Backups, small_disk: Path) -> None:
    older = backups.back_up()
    # As if the disk had been larger.
    (small_disk / older.name).mkdir()
    for file in older.iterdir():
        (small_disk / older.name / file.name).write_bytes(file.read_bytes())
    on_disk = Backups(backups.settings, small_disk)
    backups.fill(100_000)
    output = on_disk.fail_to_back_up()
    assert "No space left on device" in output
    assert "the disk of" in output
    assert "Free some space" in output
    assert (on_disk.names, on_disk.unfinished) == ([older.name], [])
    assert "✓" in on_disk.drill()


@pytest.mark.parametrize("program", ["psql", "pg_dumpall", "pg_restore", "sync"])
def test_a_step_that_fails_stops_the_backup(backups: Backups, tmp_path: Path, program: str) -> None:
    older = backups.back_up()
    text = '[[ $* != *dump.sql* && $0 == *psql ]] && exec "$REAL" "$@"\necho "it broke" >&2; exit 1'
    output = backups.fail_to_back_up(**stand_in(tmp_path / "stand-ins", backups.settings, program, text))
    assert "it broke" in output
    assert "the reason is above. Older backups are kept." in output
    assert (backups.names, backups.unfinished) == ([older.name], [])


def test_a_manifest_that_is_cut_short_stops_the_backup(backups: Backups, tmp_path: Path) -> None:
    """psql does not say that the disk is full."""
    text = '"$REAL" "$@" || exit; [[ $* != *dump.sql* ]] || sed -i "/raw.clients/d" "$BACKUP_MANIFEST"'
    output = backups.fail_to_back_up(**stand_in(tmp_path / "stand-ins", backups.settings, "psql", text))
    assert "could not write the manifest" in output
    assert (backups.names, backups.unfinished) == ([], [])


def test_a_limited_file_size_stops_the_backup(backups: Backups, tmp_path: Path) -> None:
    backups.fill(20_000)
    text = 'ulimit -f 100; exec "$REAL" "$@"'
    output = backups.fail_to_back_up(**stand_in(tmp_path / "stand-ins", backups.settings, "pg_dump", text))
    assert "could not dump data_warehouse" in output
    assert (backups.names, backups.unfinished) == ([], [])


def test_a_server_that_is_away(backups: Backups) -> None:
    older = backups.back_up()
    output = backups.fail_to_back_up(PGPORT=str(ports.find_free(1)[0]))
    assert "PostgreSQL does not answer" in output
    assert "make local-up VERTICAL=shop" in output
    assert (backups.names, backups.unfinished) == ([older.name], [])


def test_a_wrong_password_names_the_setting(backups: Backups) -> None:
    wrong = {"PGUSER": "postgres", "PGPASSWORD": "very-wrong"}
    output = backups.fail_to_back_up(**wrong)
    assert "Set SHOP_BACKUP_PASSWORD in .env" in output
    backups.back_up()
    output += backups.fail_to_drill(**wrong)
    assert "Set SHOP_POSTGRES_PASSWORD in .env" in output
    assert "very-wrong" not in output


def test_a_backup_without_its_row_says_so(backups: Backups) -> None:
    with connect(backups.settings, ADMIN) as database:
        database.execute("revoke insert on ops.backups from shop_backup")
    output = backups.fail_to_back_up()
    with connect(backups.settings, ADMIN) as database:
        database.execute("grant insert on ops.backups to shop_backup")
    assert "is complete, but ops.backups does not have it" in output
    assert "✓" in backups.drill()


def test_no_password_is_in_the_arguments_or_in_the_output(backups: Backups, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    for program in ("psql", "pg_dump", "pg_dumpall"):
        text = f'echo "$@" >>{seen}; exec "$REAL" "$@"'
        variables = stand_in(tmp_path / "stand-ins", backups.settings, program, text)
    code, output = backups.run("backup.sh", BACKUP, **variables, PGPASSWORD="secret-of-a-test")
    assert code == 0
    assert "secret-of-a-test" not in output + seen.read_text()
    assert len(seen.read_text().splitlines()) >= 5
    assert "PASSWORD" not in (backups.newest / "globals.sql").read_text()


def test_rotation_keeps_seven_days_and_four_weeks(backups: Backups) -> None:
    now = datetime.now(UTC)
    moments = [now - timedelta(hours=8 * count) for count in range(1, 200)]
    backups.folder.mkdir()
    for moment in moments:
        (backups.folder / f"{moment:%Y%m%dT%H%M%S}.000Z").mkdir()
        (backups.folder / f"{moment:%Y%m%dT%H%M%S}.000Z" / "data_warehouse.dump").touch()
    others = backups.folder / "notes.txt"
    others.touch()
    made = backups.back_up()
    newest_of_day: dict[str, str] = {}
    newest_of_week: dict[str, str] = {}
    for moment in moments:
        name = f"{moment:%Y%m%dT%H%M%S}.000Z"
        newest_of_day.setdefault(f"{moment:%Y%m%d}", name)
        newest_of_week.setdefault(f"{moment:%G-%V}", name)
    today = datetime.strptime(made.name[:8], "%Y%m%d").replace(tzinfo=UTC)
    newest_of_day[f"{today:%Y%m%d}"] = newest_of_week[f"{today:%G-%V}"] = made.name
    days = sorted(newest_of_day.values())[-7:]
    weeks = sorted(newest_of_week.values())[-4:]
    assert backups.names == sorted({*days, *weeks})
    assert 9 <= len(backups.names) <= 10
    assert backups.unfinished == []
    assert others.exists()


def test_rotation_keeps_the_new_backup_although_others_have_a_later_date(backups: Backups) -> None:
    backups.folder.mkdir()
    for day in range(1, 60):
        (backups.folder / f"{datetime.now(UTC) + timedelta(days=day):%Y%m%d}T000000.000Z").mkdir()
    code, output = backups.run("backup.sh", BACKUP)
    assert code == 0, output
    assert f"/{backups.names[0]}. Backups kept: " in output, "the oldest is the new one"
    assert f"Backup {backups.folder / backups.names[0]}\n" in backups.drill()


# --- The schedule of the container ----------------------------------------------------------------


def test_the_schedule_backs_up_at_once_and_stops_on_sigterm(backups: Backups) -> None:
    (backups.folder / "29990101T000000.000Z").mkdir(parents=True)  # a wrong clock
    variables = {"SHOP_BACKUP_HOURS": "24"}
    code, output = backups.run("schedule.sh", BACKUP, "health", **variables)
    assert code == 1, output
    process = backups.start("schedule.sh", BACKUP, **variables)
    until(lambda: backups.query("select count(*) from ops.backups") == [(1,)], "backup")
    assert backups.run("schedule.sh", BACKUP, "health", **variables) == (0, "")
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Backed up data_warehouse" in output


def test_the_schedule_waits_while_the_newest_backup_is_young(backups: Backups, tmp_path: Path) -> None:
    backups.back_up()
    slept = tmp_path / "slept"
    variables = stand_in(tmp_path / "stand-ins", backups.settings, "sleep", f'echo "$1" >{slept}; exec "$REAL" "$1"')
    process = backups.start("schedule.sh", BACKUP, SHOP_BACKUP_HOURS="2", **variables)
    until(lambda: slept.exists() and slept.read_text() != "", "sleep")
    process.terminate()
    process.communicate(timeout=30)
    assert 7000 < int(slept.read_text()) <= 7200
    assert len(backups.names) == 1


def test_the_schedule_survives_a_failure(backups: Backups, tmp_path: Path) -> None:
    backups.folder.mkdir()
    slept = tmp_path / "slept"
    variables = stand_in(tmp_path / "stand-ins", backups.settings, "sleep", f'echo "$1" >>{slept}; exec "$REAL" 0.1')
    away = str(ports.find_free(1)[0])
    process = backups.start("schedule.sh", BACKUP, SHOP_BACKUP_HOURS="24", PGPORT=away, **variables)
    until(lambda: slept.exists() and len(slept.read_text().split()) > 2, "third attempt")
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert set(slept.read_text().split()) == {"300"}
    assert output.count("PostgreSQL does not answer") > 1


@pytest.mark.parametrize("hours", ["", "0", "a day", "1.5"])
def test_the_schedule_rejects_what_is_no_number_of_hours(backups: Backups, hours: str) -> None:
    code, output = backups.run("schedule.sh", BACKUP, SHOP_BACKUP_HOURS=hours)
    assert (code, output) == (1, "error: SHOP_BACKUP_HOURS is a number of hours, from 1 to 9999.\n")
