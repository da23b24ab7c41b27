"""The exporter: serves the metrics of all services, and receives those of Airflow."""

from __future__ import annotations

import sys
from typing import Any

from infra.local.environment import export_settings
from infra.local.runner.health import TIMEOUT_S
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.clients import make_local_session
from jobs.settings import LOOPBACK, Settings

NAME = "exporter"


def _build(settings: Settings) -> tuple[Process]:
    process = Process(
        name=NAME,
        command=[sys.executable, "-m", "infra.local.exporter"],
        environment={**export_settings(settings), "PYTHONUNBUFFERED": "1"},
        folder=Paths(settings.datastream_state).service(NAME),
    )
    return (process,)


def _find_fault(settings: Settings) -> str | None:
    answer = make_local_session().get(_url(settings), timeout=TIMEOUT_S * 3)  # a source that is down takes its timeout
    answer.raise_for_status()
    is_ours = "datastream_probe_success" in answer.text
    return None if is_ours else f"port {SERVICE.port(settings)} belongs to another program"


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.observability_exporter_port}/metrics"


SERVICE = Service(
    name=NAME,
    title="Exporter",
    setting="OBSERVABILITY_EXPORTER_PORT",
    memory_mib=300,
    url=_url,
    expected_at=lambda settings: _url(settings).removesuffix("/metrics"),
    build=_build,
    find_fault=_find_fault,
    # It reads them.
    after=("kafka", "elasticsearch", "postgres", "redis", "mysql", "cassandra", "relay"),
)
