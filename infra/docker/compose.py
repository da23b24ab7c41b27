"""Runs `docker compose` at the root, as a user would."""

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
# Kibana alone may take 6 minutes for its first start.
HEALTHY_S = 600


@dataclass(frozen=True)
class Container:
    """One line of `docker compose ps`."""

    service: str
    state: str
    health: str
    exit_code: int

    @property
    def is_ready(self) -> bool:
        """Healthy; a one-shot service has ended with 0."""
        if self.service.endswith("-init"):
            return self.state == "exited" and self.exit_code == 0
        return self.health == "healthy"


def list_containers() -> list[Container]:
    """Every container of the project, stopped ones too."""
    lines = _output("ps", "--all", "--format", "json").splitlines()
    rows = [json.loads(line) for line in lines if line]
    return [Container(row["Service"], row["State"], row["Health"], row["ExitCode"]) for row in rows]


def list_volumes() -> list[str]:
    """Names of the project's volumes that exist."""
    project = json.loads(_output("config", "--format", "json"))["name"]
    label = f"label=com.docker.compose.project={project}"
    return _run("volume", "ls", "--quiet", "--filter", label).split()


def down(*options: str) -> None:
    """Stop and remove the containers of all profiles.

    Raises:
        ServiceUnavailableError: it failed; docker has printed the reason.
    """
    if _call("--profile", "*", "down", *options):
        raise ServiceUnavailableError("Docker did not remove the whole stack; the reason is printed above.")


def list_faults() -> list[str]:
    """The services of the core that have no container, and the containers that are not ready."""
    containers = {container.service: container for container in list_containers()}
    missing = [f"{service} has no container" for service in list_services() if service not in containers]
    return missing + [
        f"{container.service} is {container.health or container.state}"
        for container in containers.values()
        if not container.is_ready
    ]


def list_services() -> list[str]:
    """Every service of the core."""
    return _output("config", "--services").split()


def up() -> None:
    """Build the images, start what is not running, wait until everything is healthy.

    Raises:
        ServiceUnavailableError: an image or a service failed; with the service's last log lines.
    """
    # Attestations contain the time: each build would make a new image, and Compose would recreate the containers.
    environment = os.environ | {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    if _call("build", environment=environment):
        raise ServiceUnavailableError("Docker did not build the images; the reason is printed above.")
    if _call("up", "--detach", "--wait", "--wait-timeout", str(HEALTHY_S)):
        raise ServiceUnavailableError(f"The stack did not start.\n{describe_failures()}")


def describe_failures() -> str:
    """The last log lines of the containers that failed, or else of those that are not healthy yet."""
    waiting = [container for container in list_containers() if not container.is_ready and container.state != "created"]
    failed = [container for container in waiting if container.exit_code or container.health == "unhealthy"]
    parts = []
    for container in failed or waiting:
        is_exited = container.state == "exited"
        state = f"exited with {container.exit_code}" if is_exited else container.health or container.state
        logs = _output("logs", "--no-log-prefix", "--tail", str(LOG_LINES), container.service)
        parts.append(f"{container.service} ({state}). The end of its log:\n{textwrap.indent(logs, '  ')}")
    return "\n".join(parts) or "Look at `docker compose ps --all` and `docker compose logs`."


def _call(*arguments: str, environment: Mapping[str, str] = os.environ) -> int:
    """Run `docker compose` with its output on the terminal; returns the exit code."""
    return subprocess.run(["docker", "compose", *arguments], cwd=ROOT, env=environment, check=False).returncode


def _output(*arguments: str) -> str:
    return _run("compose", *arguments)


def _run(*arguments: str) -> str:
    """Run docker and return what it prints.

    Raises:
        ServiceUnavailableError: it failed.
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
