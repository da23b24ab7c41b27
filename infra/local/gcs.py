"""A Cloud Storage emulator with its objects as files under the state folder."""

from __future__ import annotations

import sys
import urllib.error
import urllib.parse

from infra.local import http, paths
from infra.local.service import Process, Service
from jobs.settings import LOOPBACK, ROOT, Settings

NAME = "gcs"


def service(settings: Settings) -> Service:
    return Service(
        name=NAME,
        title="GCS emulator",
        port=settings.gcs_port,
        setting="GCS_PORT",
        url=_url(settings),
        memory_mib=100,
        process_names=(NAME,),
        build=lambda: (_process(settings),),
        fault=lambda: _fault(settings),
        finish=lambda: _create_bucket(settings),
    )


def _process(settings: Settings) -> Process:
    where = paths.of(settings)
    return Process(
        name=NAME,
        command=[
            sys.executable, "-m", "infra.local.gcs_emulator", str(where.gcs), LOOPBACK, str(settings.gcs_port),
        ],
        environment={"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
        folder=where.gcs,
    )  # fmt: skip


def _url(settings: Settings) -> str:
    return f"http://{LOOPBACK}:{settings.gcs_port}"


def _fault(settings: Settings) -> str | None:
    try:
        http.call(f"{_url(settings)}/storage/v1/b?project=local")
    except (OSError, ValueError) as error:
        return http.reason(error)
    return None


def _create_bucket(settings: Settings) -> None:
    buckets = f"{_url(settings)}/storage/v1/b"
    try:
        http.call(f"{buckets}/{urllib.parse.quote(settings.bucket, safe='')}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        http.call(f"{buckets}?project=local", {"name": settings.bucket})
