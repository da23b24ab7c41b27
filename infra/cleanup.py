"""Delete what is older than the retention settings: `python -m infra.cleanup`, in Airflow's environment.

Deletes rides and indices of logs in Elasticsearch, rows of Airflow's metadata database and Airflow's log files. This is
not a DAG, because tasks of Airflow 3 have no access to its database.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from jobs.clients import make_elasticsearch_admin
from jobs.errors import DatastreamError, ServiceUnavailableError
from jobs.rides.vertical import RidesSettings
from jobs.settings import Settings, load
from jobs.terminal import escape_lines, make_console

console = make_console()

# The tables that grow with each run. Not `dag`: its rows look old after a stop of a week, and they hold the toggles.
_TABLES = ("dag_run", "log", "job", "asset_event", "callback", "xcom", "import_error", "session", "revoked_token")
# Per transaction of `airflow db clean`: SQLite has one writer, and the scheduler waits for it.
_BATCH_ROWS = 5_000
_DATABASE_TIMEOUT_S = 3600

# Not while the stack starts.
_FIRST_AFTER_S = 600
_DAY_S = 24 * 60 * 60
_AGAIN_AFTER_S = 3600

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    daily: Annotated[bool, typer.Option("--daily", help="Keep running and clean up once a day.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete rides, rows of Airflow's database and logs that are older than the retention settings."""
    if not daily:
        raise typer.Exit(not clean_up(dry_run=dry_run))
    pause = _FIRST_AFTER_S
    while True:
        time.sleep(pause)
        # In a subprocess: its libraries take 200 MiB, which this process does not keep all day.
        command = [sys.executable, "-m", "infra.cleanup", *(["--dry-run"] if dry_run else [])]
        pause = _AGAIN_AFTER_S if subprocess.run(command, check=False).returncode else _DAY_S


def clean_up(*, dry_run: bool) -> bool:
    """Run every step and print its result; returns whether all succeeded. A failure does not stop the other steps."""
    is_done = True
    for title, step in (
        ("Elasticsearch", clean_index),
        ("Application logs", clean_log_indices),
        ("Airflow's database", clean_database),
        ("Airflow's logs", clean_logs),
    ):
        try:
            text = step(load(RidesSettings), dry_run)
        except DatastreamError as error:
            text, is_done = f"[red]error:[/] {escape_lines(str(error))}", False
        console.print(f"{title}: {text}")
    return is_done


def clean_index(settings: RidesSettings, dry_run: bool) -> str:
    """Delete rides by the time of their ingestion (`jobs.rides.ops.retention`)."""
    from jobs.clients import Systems  # noqa: PLC0415
    from jobs.rides.ops.retention import delete_expired  # noqa: PLC0415

    expired = delete_expired(Systems(settings, may_write=True), dry_run=dry_run)
    if expired is None:
        return "kept everything (RIDES_INDEX_RETENTION_DAYS=0)"
    waiting = f"; {expired.waiting:,} stay until Kafka deletes their results" if expired.waiting else ""
    return f"{_verb(dry_run)} {expired.deleted:,} rides ingested before {expired.before:%F %T}Z{waiting}"


def clean_log_indices(settings: Settings, dry_run: bool) -> str:
    """Delete the daily indices of the shop's log, where Elasticsearch does not do so by itself."""
    from jobs.shop.log_retention import delete_expired_indices  # noqa: PLC0415

    expired = delete_expired_indices(make_elasticsearch_admin(settings), dry_run=dry_run)
    if expired is None:
        return "Elasticsearch deletes old indices itself (infra/elasticsearch/lifecycles)"
    return f"{_verb(dry_run)} {', '.join(expired) or 'no indices'}"


def clean_database(settings: Settings, dry_run: bool) -> str:
    """Run `airflow db clean` without an archive.

    Raises:
        ServiceUnavailableError: it failed; the rows that it deleted before stay deleted.
    """
    if not settings.airflow_retention_days:
        return "kept everything (AIRFLOW_RETENTION_DAYS=0)"
    before = _before(settings)
    command = [sys.executable, "-m", "airflow", "db", "clean", "--yes", "--skip-archive", "--error-on-cleanup-failure"]
    command += ["--clean-before-timestamp", before.isoformat(), "--tables", ",".join(_TABLES)]
    command += ["--dry-run"] if dry_run else ["--batch-size", str(_BATCH_ROWS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DATABASE_TIMEOUT_S)
    if result.returncode:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise ServiceUnavailableError(f"`airflow db clean` failed. It is safe to run it again.\n{end}")
    rows = re.findall(r"Checking table (\w+)\s+Found (\d+) rows", result.stdout)
    counts = ", ".join(f"{int(count):,} of {table}" for table, count in rows if int(count)) or "no rows"
    return f"{_verb(dry_run)} {counts}, from before {before:%F %T}Z"


def clean_logs(settings: Settings, dry_run: bool) -> str:
    """Delete the log files that were last written before, and the folders that become empty."""
    if not settings.airflow_retention_days:
        return "kept everything (AIRFLOW_RETENTION_DAYS=0)"
    before = _before(settings)
    files = size = 0
    for bytes_of_file in _old_files(_log_folder(), before, delete=not dry_run):
        files += 1
        size += bytes_of_file
    return f"{_verb(dry_run)} {files:,} files ({size / 1e6:.1f} MB) last written before {before:%F %T}Z"


def _old_files(root: Path, before: datetime, *, delete: bool) -> Iterator[int]:
    """The size of each file that was last written before a moment."""
    # List everything first: a deletion changes the folder's time of modification.
    folders = [(Path(path), _modified(Path(path)) < before, names) for path, _, names in os.walk(root, topdown=False)]
    for folder, is_old, names in folders:
        for file in map(folder.joinpath, names):
            if _modified(file) < before:
                yield file.lstat().st_size
                if delete:
                    file.unlink()
        if delete and is_old and folder != root and not any(folder.iterdir()):
            folder.rmdir()


def _log_folder() -> Path:
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return Path(os.environ.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER", f"{home}/logs")).expanduser()


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)


def _before(settings: Settings) -> datetime:
    return datetime.now(UTC) - timedelta(days=settings.airflow_retention_days)


def _verb(dry_run: bool) -> str:
    return "would delete" if dry_run else "deleted"


if __name__ == "__main__":
    app()
