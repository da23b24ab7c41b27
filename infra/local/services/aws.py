"""An emulator of AWS: MiniStack, from .venv-serverless. It keeps its data when it is stopped, not when it is killed.

It asks for no login: whoever reaches the loopback may do anything. Functions run as its child processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.preflight import Finding
from jobs.serverless.deploy import deploy
from jobs.settings import LOOPBACK, ROOT

NAME = "aws"
PYTHON = ROOT / ".venv-serverless" / "bin" / "python"
NOT_INSTALLED = f"MiniStack is not installed: there is no {PYTHON}. Run make .venv-serverless/.stamp."
# What the vertical uses. MiniStack has many more.
SERVICES = ("dynamodb", "iam", "kinesis", "lambda", "logs", "sqs", "sts")


def _build(settings: Any) -> tuple[Process]:
    if not PYTHON.exists():
        raise ServiceFailedError(NOT_INSTALLED)
    folder = _folder(settings)
    process = Process(
        name=NAME,
        command=[str(PYTHON), "-m", "ministack"],
        environment={
            "BIND_HOST": LOOPBACK,  # its default is all addresses
            "GATEWAY_PORT": str(settings.serverless_port),
            "MINISTACK_REGION": settings.serverless_region,
            # Its health page shows it, so that another MiniStack is recognised.
            "MINISTACK_EDITION": str(folder),
            "SERVICES": ",".join(SERVICES),
            "PERSIST_STATE": "1",
            "STATE_DIR": str(folder / "state"),
            "IOT_MTLS_ENABLED": "0",  # it would listen on a second port
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": "WARNING",  # the log would have each record
            "PYTHONUNBUFFERED": "1",
            # Functions get this environment. The user's login of AWS is not for them.
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test"),
            **dict.fromkeys(("AWS_SESSION_TOKEN", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"), ""),
            **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), str(folder / "config")),
            "AWS_PROFILE": "default",
        },
        folder=folder,
        files={folder / "config": "[default]\n"},
    )
    return (process,)


def _folder(settings: Any) -> Path:
    return Paths(settings.datastream_state).service(NAME)


def _check(_: Any) -> list[Finding]:
    return [] if PYTHON.exists() else [Finding("MiniStack", False, NOT_INSTALLED)]


def _find_fault(settings: Any) -> str | None:
    answer = get_json(f"{_url(settings)}/_ministack/health")
    is_ours = answer.get("edition") == str(_folder(settings))
    return None if is_ours else f"port {settings.serverless_port} belongs to another emulator"


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.serverless_port}"


def _expected_at(settings: Any) -> str:
    return settings.serverless_endpoint or ""


def _deploy(settings: Any) -> None:
    deploy(settings)


SERVICE = Service(
    name=NAME,
    title="AWS emulator",
    setting="SERVERLESS_PORT",
    memory_mib=150,
    url=_url,
    expected_at=_expected_at,
    build=_build,
    check=_check,
    find_fault=_find_fault,
    finish=_deploy,
    isolation={"serverless_endpoint_url": "", "serverless_emulator": "ministack"},
)
