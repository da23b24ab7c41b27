"""The Spark driver, which prices the claims of dag_compute_cost with COMPUTE_ENGINE=spark. It runs in .venv-spark."""

from __future__ import annotations

from typing import Any

from infra.local.environment import export_settings
from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.preflight import Finding
from jobs.environments import find_spark_interpreter
from jobs.errors import ConfigurationError
from jobs.settings import LOOPBACK, Settings

NAME = "spark-driver"


def _build(settings: Settings) -> tuple[Process]:
    process = Process(
        name=NAME,
        command=[str(find_spark_interpreter()), "-m", "jobs.spark_enrich", "drive"],
        environment={**export_settings(settings), "PYTHONUNBUFFERED": "1"},
        folder=Paths(settings.datastream_state).service(NAME),
    )
    return (process,)


def _check(_: Settings) -> list[Finding]:
    try:
        find_spark_interpreter()
    except ConfigurationError as error:
        return [Finding("Spark", False, str(error))]
    return []


def _find_fault(settings: Any) -> str | None:
    health = get_json(f"{_url(settings)}/health")
    is_ours = health.get("service") == NAME
    return None if is_ours else f"port {settings.spark_driver_port} belongs to another program"


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.spark_driver_port}"


SERVICE = Service(
    name=NAME,
    title="Spark driver",
    setting="SPARK_DRIVER_PORT",
    # With SPARK_DRIVER_MEMORY=1g.
    memory_mib=1300,
    url=_url,
    expected_at=lambda settings: settings.driver_url,  # type: ignore[attr-defined]
    build=_build,
    check=_check,
    find_fault=_find_fault,
    isolation={"spark_driver_url": ""},
)
