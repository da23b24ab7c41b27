"""The first install step, in a shell that would break it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from jobs.settings import ROOT

FILES = ("Makefile", "jobs/inherited.txt", ".env.example", "requirements/bootstrap.txt")
HOSTILE = {
    "PIP_USER": "1",
    "PIP_TARGET": "/another",
    "PYTHONHOME": "/another",
    "PYTHONSAFEPATH": "1",
    "VIRTUAL_ENV": "/x",
}


def test_an_install_can_be_repeated_after_it_failed(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def install(**variables: str) -> subprocess.CompletedProcess[str]:
        command = ["make", ".venv/bin/uv", f"PYTHON={Path(sys.executable).resolve()}"]
        environment = {**os.environ, **HOSTILE, **variables}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    failed = install(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_CONFIG_FILE=os.devnull)
    assert failed.returncode
    assert "If the package index is unreachable" in failed.stderr

    # As after Ctrl-C while the environment was made.
    shutil.rmtree(next((tmp_path / ".venv" / "lib").glob("python*")) / "site-packages" / "pip")
    done = install()
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / ".venv" / "bin" / "uv", "--version"], capture_output=True, check=True).stdout
