"""What a service declares, so that the runner can start, watch and stop it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.preflight import Finding
from jobs.settings import LOOPBACK, Settings

STOP_S = 30


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
        """Changes when a restart is needed to apply settings. Variables inherited from the shell do not count."""
        text = json.dumps([self.command, self.environment, {str(k): v for k, v in self.files.items()}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _do_nothing(_: Settings) -> None:
    pass


@dataclass(frozen=True)
class Service:
    """What a user starts: one process or several. Its functions get the settings and can be repeated without harm.

    Attributes:
        name: on the command line, and of its folder below the state folder, which `clean` deletes.
        title: in messages.
        setting: the variable in .env that has its port.
        memory_mib: its measured peak.
        url: its address here.
        expected_at: the address that clients use. If it is not on this machine's port, nothing needs this service.
        build: makes its processes, and the secrets and private ports that they need. Called only for a start.
        find_fault: why it is not ready, or None. A `requests.RequestException` counts as a fault.
        prepare: runs before the processes start: format a disk, migrate a database.
        finish: runs when the service is ready.
        check: findings for the preflight.
        login: how to sign in.
        processes: their names; empty: one process by the service's name.
        jars: sets of jars that it needs (`infra.local.java.lock`).
        after: services that must be ready before it starts, if they are started too; it stops before them.
        stop_signal: asks its processes to end.
        stop_s: seconds that its processes have to end before they are killed.
        isolation: settings, with the values that make clients expect it on this machine.
    """

    name: str
    title: str
    setting: str
    memory_mib: int
    url: Callable[[Settings], str]
    expected_at: Callable[[Settings], str]
    build: Callable[[Settings], tuple[Process, ...]]
    find_fault: Callable[[Settings], str | None]
    prepare: Callable[[Settings], None] = _do_nothing
    finish: Callable[[Settings], None] = _do_nothing
    check: Callable[[Settings], list[Finding]] = lambda _: []
    login: Callable[[Settings], str] = lambda _: ""
    processes: tuple[str, ...] = ()
    jars: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    stop_signal: str = "TERM"
    stop_s: int = STOP_S
    isolation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def process_names(self) -> tuple[str, ...]:
        return self.processes or (self.name,)

    def port(self, settings: Settings) -> int:
        """The port that `setting` gives it."""
        port: int = getattr(settings, self.setting.lower())
        return port

    def is_expected_here(self, settings: Settings) -> bool:
        """Whether clients look for it on this machine."""
        address = self.expected_at(settings).rpartition("//")[2].rstrip("/")
        return address in {f"{host}:{self.port(settings)}" for host in (LOOPBACK, "localhost")}
