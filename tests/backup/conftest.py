"""The warehouse of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testkit.backup import Backups
from tests.testkit.warehouse import empty_warehouse, run_warehouse


@pytest.fixture(scope="session")
def running_warehouse() -> Iterator[Any]:
    with run_warehouse() as settings:
        yield settings


@pytest.fixture
def backups(running_warehouse: Any, tmp_path: Path) -> Backups:
    """The backups of a warehouse with 1,000 transactions: none yet."""
    empty_warehouse(running_warehouse)
    backups = Backups(running_warehouse, tmp_path / "backups")
    backups.fill(1000)
    return backups
