"""Rules for the scripts of the backups, checked without starting anything."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from infra.postgres import BACKUP_SCRIPTS, FILES
from jobs.settings import ROOT

SCRIPTS = sorted(BACKUP_SCRIPTS.glob("*.sh"))


def test_scripts_are_valid_bash_and_end_at_the_first_error() -> None:
    assert len(SCRIPTS) == 4
    subprocess.run(["bash", "-n", *SCRIPTS], check=True)
    for script in SCRIPTS:
        text = script.read_text()
        assert re.search(r"(?m)^set -euo pipefail$", text) or 'source "$HERE/common.sh"' in text, script
        assert not re.search(r"PGPASSWORD=|--password=|postgresql://", text), f"{script}: a password in an argument"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    result = subprocess.run(["shellcheck", "-x", *SCRIPTS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_set_up_does_not_run_the_sql_of_backups() -> None:
    assert {file.parent for file in FILES} == {ROOT / "infra" / "postgres"}


def test_every_setting_of_the_scripts_is_given_in_docker() -> None:
    compose = (ROOT / "infra" / "compose" / "shop.yml").read_text()
    for name in ("BACKUP_FOLDER", "SHOP_BACKUP_HOURS"):
        assert any(f"${{{name}:" in script.read_text() for script in SCRIPTS)
        assert f"{name}: " in compose
