"""The warehouse of the shop's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobs.files import Folder
from jobs.settings import ROOT
from tests.testkit.shop import Loading
from tests.testkit.stack import make_topic_factory
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


@pytest.fixture(scope="session")
def warehouse_and_kafka() -> Iterator[Any]:
    with run_warehouse("kafka") as settings:
        yield settings


@pytest.fixture(scope="session")
def make_topic(warehouse_and_kafka: Any) -> Callable[..., str]:
    return make_topic_factory({"bootstrap.servers": warehouse_and_kafka.bootstrap_servers})


@pytest.fixture
def loading(warehouse_and_kafka: Any, make_topic: Callable[..., str], tmp_path: Path) -> Loading:
    """An empty warehouse, new topics and a new group."""
    empty_warehouse(warehouse_and_kafka)
    topics = {"shop_topic": make_topic("shop"), "shop_dlq_topic": make_topic("shop_dlq")}
    return Loading(
        settings=warehouse_and_kafka.model_copy(update=topics),
        group=f"loading-{uuid4().hex[:8]}",
        source=topics["shop_topic"],
        dlq=topics["shop_dlq_topic"],
        folder=Folder(f"file://{tmp_path}/staging"),
    )
