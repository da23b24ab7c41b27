"""A vertical is folders of its name and one declaration: tests/notes, added to a copy of the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from jobs.settings import LOOPBACK, ROOT, Settings
from tests.testkit.kafka import Raw, produce, read_all
from tests.testkit.rides import encode
from tests.testkit.stack import guarded
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(600)

NOTES = ROOT / "tests" / "notes"
RAW, RESULT, DLQ = "notes_raw", "notes_result", "notes_dlq"


class Copy:
    """A copy of the repository with the notes vertical, and its stack."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root
        self.settings = settings
        self.kafka = {"bootstrap.servers": settings.bootstrap_servers}
        own = export_settings(settings)
        kept = {name: value for name, value in os.environ.items() if name not in own}
        direct = {"NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK, "COLUMNS": "120"}
        self._variables = kept | own | direct | {"PYTHONPATH": str(root)}

    def run(self, *command: str, exit_code: int = 0) -> str:
        """What a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root, env=self._variables, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == exit_code, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ledger(self) -> dict[str, Any]:
        self.run("jobs", "ledger", "notes")
        content: dict[str, Any] = json.loads((self.settings.datastream_state / "ledger-notes.json").read_bytes())
        return content


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("copy")
    for folder in ("jobs", "infra", "airflow", "requirements"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        added = NOTES / folder
        clashes = [path for path in added.rglob("*.*") if (ROOT / folder / path.relative_to(added)).exists()]
        assert not clashes, "a vertical adds files, and changes none"
        shutil.copytree(added, root / folder, dirs_exist_ok=True)
    shutil.copy(ROOT / "Makefile", root)
    (root / ".venv").symlink_to(sys.prefix)
    subprocess.run(["make", ".venv-notes/.stamp"], cwd=root, check=True, timeout=120)
    settings = isolated_settings(gcs_bucket="datastream", poll_wait_s=1)
    made = Copy(root, settings)
    with guarded(settings.datastream_state):
        made.run("infra.local", "up", "--vertical", "notes")
        yield made


def test_commands_include_the_new_vertical(copy: Copy) -> None:
    assert "│ notes_raw" in copy.run("jobs", "topics")
    assert "Applied index template notes." in copy.run("jobs", "template")
    assert "dag_score_notes" in copy.run("jobs", "unpause", "notes")
    lag = copy.run("jobs", "lag", "--once")
    assert {line.split()[1] for line in lag.splitlines() if "dag_" in line} >= {"dag_score_notes", "dag_compute_cost"}
    assert "infra/airflow/env/notes.env" in copy.run("infra.generate")
    lines = (copy.root / "infra" / "airflow" / "env" / "notes.env").read_text().splitlines()
    assert "AIRFLOW_VAR_NOTES_RAW_TOPIC=${NOTES_RAW_TOPIC:-notes_raw}" in lines
    assert "NOTES_INDEX=${NOTES_INDEX:-}" in lines
    assert "- notes.env" in (copy.root / "infra" / "airflow" / "env" / "files.yml").read_text()


def test_notes_flow_from_the_raw_topic_to_the_ledger(copy: Copy) -> None:
    good = [encode({"note_id": str(number), "text": "hi" + "!" * (number % 3)}) for number in range(200)]
    bad = [Raw(b"{}", b"key", [("trace", b"\xff")]), Raw(None, b"empty"), Raw(b"\xff")]
    produce(copy.kafka, RAW, [*good, *bad])
    copy.run("jobs", "wait", "notes")
    results = {record.key: json.loads(record.value or b"") for record in read_all(copy.kafka, RESULT)}
    assert len(results) == 200
    assert results[b"7"] == {"note_id": "7", "text": "hi!", "mood": 1.0}
    letters = {record.key: record for record in read_all(copy.kafka, DLQ)}
    assert {(letter.key, letter.value, letter.error["exception.class.name"]) for letter in letters.values()} == {
        (raw.key, raw.value, "invalid_note") for raw in bad
    }
    assert (letters[b"key"].headers or [])[0] == ("trace", b"\xff")
    assert letters[b"key"].error["task.id"] == "ScoreNotes"
    ledger = copy.ledger()
    assert (ledger["raw"], ledger["result"], ledger["dlq"], ledger["pending"], ledger["faults"]) == (203, 200, 3, 0, [])
    assert "invalid_note" in copy.run("jobs", "dlq", "notes")


def test_a_task_runs_with_the_packages_of_the_vertical(copy: Copy) -> None:
    """The output of the command is in the task's log."""
    line = "Results are on notes_result: Notes Result"

    def is_logged() -> bool:
        logs = (copy.settings.datastream_state / "logs" / "airflow").rglob("task_id=DescribeNotes/*.log")
        return any(line in log.read_text() for log in logs)

    until(is_logged, "a log of DescribeNotes with its output")


def test_replayed_notes_are_not_lost(copy: Copy) -> None:
    assert "3 dead letters went back to notes_raw" in copy.run("jobs", "dlq-replay", "notes")
    copy.run("jobs", "wait", "notes")
    ledger = copy.ledger()
    assert (ledger["raw"], ledger["dlq"], ledger["replayed"], ledger["balanced"]) == (206, 6, 3, True)
    assert "dag_score_notes" in copy.run("jobs", "lag", "--once")


def test_the_rides_ledger_does_not_count_notes(copy: Copy) -> None:
    """Notes have their own topics, which the rides' ledger does not read."""
    assert [record for record in read_all(copy.kafka, "rides_dlq") if record.error] == []
    assert read_all(copy.kafka, "rides_raw") == []
