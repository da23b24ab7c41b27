"""Finding verticals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jobs
from jobs.errors import ConfigurationError
from jobs.settings import ROOT
from jobs.verticals import find_verticals

# Runs `python -m jobs COMMAND` with further packages below jobs/, in the folder of the first argument.
RUN = "import jobs, runpy, sys; jobs.__path__.append(sys.argv.pop(1)); runpy.run_module('jobs', run_name='__main__')"


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder with a vertical that imports a package that is not installed."""
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "__init__.py").touch()
    (tmp_path / "flowers" / "vertical.py").write_text("import greenhouse")
    return str(tmp_path)


def test_the_error_for_a_broken_vertical_names_it_and_the_cause(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, broken])
    find_without_cache = find_verticals.__wrapped__
    with pytest.raises(ConfigurationError, match=r"vertical 'flowers' .*No module named 'greenhouse'"):
        find_without_cache()


@pytest.mark.parametrize("command", ["topics", "ledger"])
def test_a_broken_vertical_ends_a_command_with_an_error_and_no_traceback(broken: str, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", RUN, broken, command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: Cannot import the vertical 'flowers'")
    assert "Traceback" not in ended.stderr
