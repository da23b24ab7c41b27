"""The warehouse of the shop's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.settings import ROOT
from tests.testkit.warehouse import empty_warehouse, run_warehouse


@pytest.fixture(scope="session")
def running_warehouse() -> Iterator[Any]:
    with run_warehouse() as settings:
        yield settings


@pytest.fixture
def warehouse(running_warehouse: Any) -> Any:
    """The settings of an empty warehouse."""
    empty_warehouse(running_warehouse)
    return running_warehouse


@pytest.fixture(scope="session")
def dbt_environment() -> None:
    """dbt's packages in .venv-dbt."""
    subprocess.run(["make", ".venv-dbt/.stamp"], cwd=ROOT, check=True, timeout=300)
