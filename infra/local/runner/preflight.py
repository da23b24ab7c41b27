"""Checks before anything is downloaded or started."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from infra.local.java import jars
from infra.local.runner import ports, processes
from infra.local.runner.paths import Paths
from infra.local.runner.service import Service
from infra.preflight import Finding, distinct_ports
from jobs.settings import ROOT, Settings

PYTHONS = ((3, 11), (3, 13))
FREE_DISK_GB = 3.0
# sun_path of the smallest system (macOS), less the NUL and the suffix that supervisord first binds the socket with.
MAX_SOCKET_BYTES = 104 - 1 - len(".4194304")
# Characters with a meaning in class paths, in lists of services' configuration, in database URLs or for supervisord.
RESERVED = frozenset(",:;#?%\"'\\\n")


def check_all(settings: Settings, services: Iterable[Service]) -> list[Finding]:
    """Every check for starting these services."""
    services = list(services)
    paths = Paths(settings.datastream_state)
    return [
        _check_python(),
        *check_paths(paths),
        _check_disk(paths),
        _check_memory(sum(service.memory_mib for service in services)),
        *distinct_ports((service.setting, service.port(settings)) for service in services),
        *(_check_port(paths, service, service.port(settings)) for service in services),
        *(finding for service in services for finding in service.check(settings)),
    ]


def _check_python() -> Finding:
    low, high = PYTHONS
    version = sys.version_info[:2]
    text = f"Python {sys.version.split()[0]}"
    if low <= version <= high:
        return Finding("Python", True, text)
    return Finding("Python", False, f"{text} is not supported: use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}.")


def check_paths(paths: Paths) -> list[Finding]:
    """Whether services can use these paths. Comes before the state folder is made."""
    length = len(bytes(paths.socket))
    faults = []
    if length > MAX_SOCKET_BYTES:
        faults.append(
            f"The socket path {paths.socket} has {length} bytes; the limit is {MAX_SOCKET_BYTES}. Move the checkout "
            f"to a path {length - MAX_SOCKET_BYTES} bytes shorter, or set DATASTREAM_STATE in .env to a short "
            "absolute path."
        )
    for title, path, remedy in (
        ("state folder", paths.state, "Set DATASTREAM_STATE in .env to a path without them."),
        ("checkout", ROOT, "Move it to a path without them."),
        ("jar cache", jars.cache(), "Set XDG_CACHE_HOME to a path without them."),
        ("Python", Path(sys.executable), "Make the virtual environment at a path without them."),
    ):
        reserved = sorted(RESERVED & set(str(path)))
        if reserved:
            faults.append(
                f"The {title}'s path {path} contains {' '.join(map(repr, reserved))}, which services misread. {remedy}"
            )
    folder = _find_existing(paths.state)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        faults.append(
            f"The state folder {paths.state} cannot be made: {folder} is not a folder that this user may write. Set "
            "DATASTREAM_STATE in .env to another one."
        )
    if faults:
        return [Finding("Paths", False, text) for text in faults]
    return [Finding("Paths", True, f"state in {paths.state}")]


def _find_existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _check_disk(paths: Paths) -> Finding:
    place = _find_existing(paths.state)
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.1f} GB free at {place}"
    if free >= FREE_DISK_GB:
        return Finding("Disk", True, text)
    remedy = "Free some, or set DATASTREAM_STATE in .env to a folder on another disk."
    return Finding("Disk", False, f"Only {text}; {FREE_DISK_GB:.0f} GB are needed. {remedy}")


def _check_memory(needed_mib: int) -> Finding:
    free = _free_memory_mib()
    text = f"{free} MiB of memory free"
    if free >= needed_mib:
        return Finding("Memory", True, text)
    remedy = "Close other programs, or start fewer services with --only."
    return Finding("Memory", False, f"Only {text}; {needed_mib} MiB are needed. {remedy}")


def _free_memory_mib() -> int:
    """The machine's available memory; a container's limit counts too."""
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free // 2**20


def _check_port(paths: Paths, service: Service, port: int) -> Finding:
    name = f"{service.title}'s port"
    if ports.is_free(port):
        return Finding(name, True, f"{port} is free")
    holder = ports.find_holder(port)
    if holder is not None and processes.is_marked(holder, paths):
        return Finding(name, True, f"{port} is held by this stack (pid {holder.pid})")
    program = "another user's process" if holder is None else f"pid {holder.pid} ({holder.name()})"
    return Finding(
        name,
        False,
        f"{name} {port} is in use by {program}. Stop that, or set {service.setting} in .env to a free port. "
        "The stack in Docker (`make down` stops it) and the services of another checkout use the same ports by "
        "default: only one can run.",
    )
