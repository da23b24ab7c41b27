"""Backups of a test's warehouse, and stand-ins for the programs that the scripts of infra/postgres/backup call."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.local.services.postgres import make_client_environment
from infra.postgres import BACKUP_SCRIPTS
from jobs.shop.database import ADMIN, BACKUP, connect
from tests.testkit.wait import until

TIMEOUT_S = 60
# $VICTIM is the process id of the script.
WITH_ITS_ID = 'export VICTIM=$$; exec bash "$@"'

FILL = """
insert into raw.transactions_raw (transaction_id, client_id, produit_id, montant, date, statut)
select 'TXN' || gen_random_uuid(), n, n, n + 0.01, now(), 'success' from generate_series(1, {rows}) as n
"""


@dataclass(frozen=True)
class Backups:
    """The backups of a warehouse in a folder."""

    settings: Any
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, script: str, role: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a script; its output is one text."""
        environment = make_client_environment(self.settings, role)
        environment |= {"BACKUP_FOLDER": str(self.folder), **self.variables, **variables}
        # In front of PostgreSQL's own programs.
        if "STAND_INS" in environment:
            environment["PATH"] = os.pathsep.join([environment["STAND_INS"], environment["PATH"]])
        return subprocess.Popen(
            ["bash", "-c", WITH_ITS_ID, "bash", str(BACKUP_SCRIPTS / script), *arguments],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, script: str, role: str, *arguments: str, **variables: str) -> tuple[int, str]:
        """The exit code and the output of a script."""
        process = self.start(script, role, *arguments, **variables)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, output

    def back_up(self, **variables: str) -> Path:
        """Make a backup; returns its folder."""
        code, output = self.run("backup.sh", BACKUP, **variables)
        assert code == 0, output
        return self.newest

    def fail_to_back_up(self, **variables: str) -> str:
        code, output = self.run("backup.sh", BACKUP, **variables)
        assert code == 1, output
        return output

    def drill(self, **variables: str) -> str:
        code, output = self.run("restore_drill.sh", ADMIN, **variables)
        assert code == 0, output
        return output

    def fail_to_drill(self, **variables: str) -> str:
        code, output = self.run("restore_drill.sh", ADMIN, **variables)
        assert code == 1, output
        assert "✓" not in output
        return output

    @property
    def names(self) -> list[str]:
        """The complete backups, oldest first."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and path.name[0] != ".")

    @property
    def unfinished(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith("."))

    @property
    def newest(self) -> Path:
        return self.folder / self.names[-1]

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.settings, ADMIN) as database:
            return database.execute(statement).fetchall()

    def fill(self, rows: int) -> None:
        with connect(self.settings, ADMIN) as database:
            database.execute(FILL.format(rows=rows))

    def list_scratch_databases(self) -> list[tuple[Any, ...]]:
        return self.query("select datname from pg_database where datname like 'restore_drill_%'")

    def wait_until_unused(self) -> None:
        """Wait for what a killed script started."""
        with self._opened() as folder:
            until(lambda: _can_lock(folder), f"{self.folder} is locked")

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _can_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stand_in(folder: Path, settings: Any, program: str, text: str) -> dict[str, str]:
    """Put a Bash script in the place of a program, which is `$REAL` in it. Returns variables for the scripts."""
    folder.mkdir(exist_ok=True)
    real = shutil.which(program, path=make_client_environment(settings, BACKUP)["PATH"])
    file = folder / program
    file.write_text(f"#!/usr/bin/env bash\nREAL={real}\n{text}\n")
    file.chmod(0o755)
    return {"STAND_INS": str(folder)}
