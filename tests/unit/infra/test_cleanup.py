"""Cleanup deletes old logs, and one failure does not stop the other steps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from infra import cleanup
from jobs.errors import ServiceUnavailableError
from jobs.rides.vertical import RidesSettings
from jobs.settings import Settings

DAY_S = 24 * 60 * 60
SETTINGS = RidesSettings(_env_file=None, airflow_retention_days=7)


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of a run of eight days ago, of one that began then and still runs, and of one of today."""
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    for run, tasks in {"old": [8, 8], "long": [8, 0], "new": [0]}.items():
        for number, days in enumerate(tasks):
            file = tmp_path / "dag_id=a" / f"run_id={run}" / f"task_id={number}" / "attempt=1.log"
            file.parent.mkdir(parents=True)
            file.write_text("text")
            for path in (file, file.parent):
                os.utime(path, (time.time() - days * DAY_S,) * 2)
        os.utime(tmp_path / "dag_id=a" / f"run_id={run}", (time.time() - max(tasks) * DAY_S,) * 2)
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.log")}


def test_old_logs_are_deleted_with_their_folders(logs: Path) -> None:
    assert "deleted 3 files" in cleanup.clean_logs(SETTINGS, False)
    assert files(logs) == {
        "dag_id=a/run_id=long/task_id=1/attempt=1.log",
        "dag_id=a/run_id=new/task_id=0/attempt=1.log",
    }
    assert {path.name for path in (logs / "dag_id=a").iterdir()} == {"run_id=long", "run_id=new"}
    assert "deleted 0 files" in cleanup.clean_logs(SETTINGS, False)


def test_dry_run_or_no_retention_deletes_nothing(logs: Path) -> None:
    before = files(logs)
    assert "would delete 3 files" in cleanup.clean_logs(SETTINGS, True)
    keep_all = SETTINGS.model_copy(update={"airflow_retention_days": 0})
    assert "kept everything" in cleanup.clean_logs(keep_all, False)
    assert "kept everything" in cleanup.clean_database(keep_all, False)
    assert "kept everything" in cleanup.clean_index(keep_all, False)
    assert files(logs) == before


def test_one_failed_cleanup_does_not_stop_the_others(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(settings: Settings, dry_run: bool) -> str:
        raise ServiceUnavailableError("it is [away]")

    monkeypatch.setattr(cleanup, "clean_index", away)
    monkeypatch.setattr(cleanup, "clean_database", lambda *_: "done")
    monkeypatch.setattr(cleanup, "clean_log_indices", lambda *_: "done")
    assert not cleanup.clean_up(dry_run=False)
    printed = capsys.readouterr().out
    assert "error: it is [away]" in printed
    assert "deleted 3 files" in printed
    monkeypatch.setattr(cleanup, "clean_index", lambda *_: "done")
    assert cleanup.clean_up(dry_run=False)
