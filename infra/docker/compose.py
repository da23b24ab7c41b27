"""`docker compose`, at the root, as a user would call it."""

from __future__ import annotations

import json
import subprocess
import textwrap
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
        return self.health == "healthy" or (self.state == "exited" and self.exit_code == 0)


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
    """Stop and remove all containers, those of every profile."""
    subprocess.run(["docker", "compose", "--profile", "*", "down", *options], cwd=ROOT, check=True)


def up() -> None:
    """Build what has to be built, start what does not run, wait until all is healthy.

    Raises:
        ServiceUnavailableError: something did not start; with its last log lines.
    """
    command = ["up", "--detach", "--build", "--wait", "--wait-timeout", str(HEALTHY_S)]
    if subprocess.run(["docker", "compose", *command], cwd=ROOT, check=False).returncode:
        raise ServiceUnavailableError(f"The stack did not start.\n{_culprits()}")


def _culprits() -> str:
    """The last log lines of what ended in a failure, or else of what is not healthy yet."""
    ill = [it for it in containers() if not it.is_well and it.state != "created"]
    failed = [it for it in ill if it.exit_code or it.health == "unhealthy"]
    parts = []
    for it in failed or ill:
        state = f"exited with {it.exit_code}" if it.state == "exited" else it.health or it.state
        logs = _output("logs", "--no-log-prefix", "--tail", str(LOG_LINES), it.service)
        parts.append(f"{it.service} ({state}). The end of its log:\n{textwrap.indent(logs, '  ')}")
    return "\n".join(parts) or "`docker compose ps --all` and `docker compose logs` may tell more."


def _output(*arguments: str) -> str:
    return _run("compose", *arguments)


def _run(*arguments: str) -> str:
    """What docker prints.

    Raises:
        ServiceUnavailableError: it fails.
    """
    result = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode:
        raise ServiceUnavailableError(f"docker {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout
