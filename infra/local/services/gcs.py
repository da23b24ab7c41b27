"""A Cloud Storage emulator that keeps its objects as files below the state folder."""

from __future__ import annotations

import sys

from infra.local.runner.health import TIMEOUT_S, get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.clients import make_local_session
from jobs.settings import LOOPBACK, ROOT, Settings

NAME = "gcs"
CONFLICT = 409


def _build(settings: Settings) -> tuple[Process]:
    folder = Paths(settings.datastream_state).service(NAME)
    process = Process(
        name=NAME,
        command=[
            sys.executable, "-m", "infra.local.services.gcs_emulator", str(folder), LOOPBACK, str(settings.gcs_port),
        ],
        environment={"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
        folder=folder,
    )  # fmt: skip
    return (process,)


def _url(settings: Settings) -> str:
    return f"http://{LOOPBACK}:{settings.gcs_port}"


def _buckets(settings: Settings) -> str:
    return f"{_url(settings)}/storage/v1/b?project=local"


def _find_fault(settings: Settings) -> None:
    get_json(_buckets(settings))


def _create_bucket(settings: Settings) -> None:
    answer = make_local_session().post(_buckets(settings), json={"name": settings.bucket}, timeout=TIMEOUT_S)
    if answer.status_code != CONFLICT:  # it exists already
        answer.raise_for_status()


SERVICE = Service(
    name=NAME,
    title="GCS emulator",
    setting="GCS_PORT",
    memory_mib=100,
    url=_url,
    expected_at=lambda settings: settings.gcs_endpoint or "",
    build=_build,
    find_fault=_find_fault,
    finish=_create_bucket,
    isolation={"gcs_emulator_url": "", "cloud_storage": "emulator"},
)
