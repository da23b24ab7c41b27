"""What a service is, as far as starting and watching it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Process:
    """One process under the supervisor. `files` are configuration files (path: text) written before a start."""

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    files: dict[Path, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Changes when a restart is needed to bring settings into effect; the shell's own variables do not count."""
        text = json.dumps([self.command, self.environment, {str(k): v for k, v in self.files.items()}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Service:
    """What a user starts: one process, or Airflow's five.

    `build` makes the processes, and with them generated secrets and ports: only call it to start them. `prepare` runs
    before they start (format a disk, migrate a database); `fault` tells why the service is not ready, or None when it
    is; `finish` runs once it is ready. All are harmless to repeat.
    """

    name: str
    title: str
    port: int
    setting: str  # the variable in .env that changes the port
    url: str
    memory_mib: int  # what it takes at most, measured
    process_names: tuple[str, ...]
    build: Callable[[], tuple[Process, ...]]
    fault: Callable[[], str | None]
    prepare: Callable[[], None] = _nothing
    finish: Callable[[], None] = _nothing
    jars: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # services that must be ready before this one starts, if they are started at all
