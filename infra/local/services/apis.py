"""The stand-ins for OpenWeather and AviationStack (infra/fake_apis)."""

from __future__ import annotations

import sys
from typing import Any

from infra.fake_apis import NAME as ITS_NAME
from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.settings import LOOPBACK, ROOT

NAME = "apis"


def _build(settings: Any) -> tuple[Process]:
    process = Process(
        name=NAME,
        command=[sys.executable, "-m", "infra.fake_apis", LOOPBACK, str(settings.flights_apis_port)],
        environment={"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
        folder=Paths(settings.datastream_state).service(NAME),
    )
    return (process,)


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.flights_apis_port}"


def _expected_at(settings: Any) -> str:
    return settings.flights_apis  # type: ignore[no-any-return]


def _find_fault(settings: Any) -> str | None:
    is_ours = get_json(f"{_url(settings)}/health").get("name") == ITS_NAME
    return None if is_ours else f"port {SERVICE.port(settings)} belongs to another program"


SERVICE = Service(
    name=NAME,
    title="Stand-in APIs",
    setting="FLIGHTS_APIS_PORT",
    memory_mib=60,
    url=_url,
    expected_at=_expected_at,
    build=_build,
    find_fault=_find_fault,
    isolation={"flights_apis_url": ""},
)
