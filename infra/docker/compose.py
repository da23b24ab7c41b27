"""`docker compose`, at the root, as a user would call it."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.errors import ServiceUnavailableError
from jobs.settings import ROOT

LOG_LINES = 15
HEALTHY_S = 300


@dataclass(frozen=True)
class Container:
    """What `docker compose ps` tells of one."""

    service: str
    state: str
    health: str
    exit_code: int

    @property
    def is_well(self) -> bool:
        is_done = self.state == "exited" and self.exit_code == 0
        return is_done if self.service.endswith("-init") else self.health == "healthy"


def containers() -> list[Container]:
    """Every container of the project, stopped ones as well."""
    lines = _output("ps", "--all", "--format", "json").splitlines()
    found = [json.loads(line) for line in lines if line]
    return [Container(it["Service"], it["State"], it["Health"], it["ExitCode"]) for it in found]


def volumes() -> list[str]:
    """Names of the project's volumes that exist."""
    project = json.loads(_output("config", "--format", "json"))["name"]
    label = f"label=com.docker.compose.project={project}"
    return _run("volume", "ls", "--quiet", "--filter", label).split()


def down(*options: str) -> None:
    """Stop and remove all containers, those of every profile.

    Raises:
        ServiceUnavailableError: that failed; docker has told why.
    """
    if _call("--profile", "*", "down", *options):
        raise ServiceUnavailableError("The stack was not removed, or not all of it.")


def faults() -> list[str]:
    """What is not well of all services that should be there."""
    found = {it.service: it for it in containers()}
    missing = [f"{name} is not there" for name in services() if name not in found]
    return missing + [f"{it.service} is {it.health or it.state}" for it in found.values() if not it.is_well]


def services() -> list[str]:
    """Every service of the default profile."""
    return _output("config", "--services").split()


def up() -> None:
    """Build what has to be built, start what does not run, wait until all is healthy.

    Raises:
        ServiceUnavailableError: something did not start; with its last log lines.
    """
    # Airflow's services share one image. One of them builds it: `up --build` would build it for each, and as Compose
    # labels images with the service, each time another one would be the newest, and all containers made anew.
    # Attestations have a time in them, with the same effect.
    environment = os.environ | {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    if _call("build", "airflow-init", environment=environment):
        raise ServiceUnavailableError("Airflow's image could not be built; the reason stands above.")
    if _call("up", "--detach", "--wait", "--wait-timeout", str(HEALTHY_S)):
        raise ServiceUnavailableError(f"The stack did not start.\n{culprits()}")


def culprits() -> str:
    """The last log lines of what ended in a failure, or else of what is not healthy yet."""
    ill = [it for it in containers() if not it.is_well and it.state != "created"]
    failed = [it for it in ill if it.exit_code or it.health == "unhealthy"]
    parts = []
    for it in failed or ill:
        state = f"exited with {it.exit_code}" if it.state == "exited" else it.health or it.state
        logs = _output("logs", "--no-log-prefix", "--tail", str(LOG_LINES), it.service)
        parts.append(f"{it.service} ({state}). The end of its log:\n{textwrap.indent(logs, '  ')}")
    return "\n".join(parts) or "`docker compose ps --all` and `docker compose logs` may tell more."


def _call(*arguments: str, environment: Mapping[str, str] = os.environ) -> int:
    """Let `docker compose` print what it does; returns its exit code."""
    return subprocess.run(["docker", "compose", *arguments], cwd=ROOT, env=environment, check=False).returncode


def _output(*arguments: str) -> str:
    return _run("compose", *arguments)


def _run(*arguments: str) -> str:
    """What docker prints.

    Raises:
        ServiceUnavailableError: it fails.
    """
    try:
        result = subprocess.run(
            ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceUnavailableError(f"docker {' '.join(arguments)}: {error}. Does `docker info` work?") from error
    if result.returncode:
        raise ServiceUnavailableError(f"docker {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout
