"""The departures page, which the scraper of the flights reads."""

from __future__ import annotations

import sys
from typing import Any

from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.settings import LOOPBACK, ROOT

NAME = "departures"


def _build(settings: Any) -> tuple[Process]:
    process = Process(
        name=NAME,
        command=[sys.executable, "-m", "infra.departures"],
        environment={
            "FLIGHTS_DEPARTURES_PORT": str(settings.flights_departures_port),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        },
        folder=Paths(settings.datastream_state).service(NAME),
    )
    return (process,)


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.flights_departures_port}"


def _expected_at(settings: Any) -> str:
    return str(settings.flights_departures)


def _find_fault(settings: Any) -> str | None:
    is_ours = get_json(f"{_url(settings)}/health") == {"service": NAME}
    return None if is_ours else f"port {SERVICE.port(settings)} belongs to another program"


SERVICE = Service(
    name=NAME,
    title="Departures page",
    setting="FLIGHTS_DEPARTURES_PORT",
    memory_mib=100,
    url=lambda settings: f"{_url(settings)}/departures.html",
    expected_at=_expected_at,
    build=_build,
    find_fault=_find_fault,
    isolation={"flights_departures_url": ""},
)
