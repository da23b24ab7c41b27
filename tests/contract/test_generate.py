"""Generated files are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.generate import ENVIRONMENT, generate
from jobs.settings import ROOT

FILES = generate()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == FILES[path], f"{path.relative_to(ROOT)}: run `make generate`"


def test_no_password_goes_to_all_services_of_airflow() -> None:
    assert not [path for path in ENVIRONMENT.iterdir() if "PASSWORD" in path.read_text()]


def test_no_environment_file_is_left_of_a_vertical_that_is_gone() -> None:
    assert set(ENVIRONMENT.iterdir()) == {path for path in FILES if path.parent == ENVIRONMENT} | {
        ENVIRONMENT / "core.env"
    }
