"""What can be known to go wrong before anything is downloaded or started."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from infra.local import elasticsearch, jars, paths, ports, processes
from infra.local.paths import Paths
from infra.local.service import Service
from infra.preflight import Finding, distinct_ports
from jobs.settings import ROOT, Settings

PYTHONS = ((3, 11), (3, 13))
FREE_DISK_GB = 3.0
# sun_path of the smallest system (macOS), less the NUL and the suffix that supervisord binds under first.
MOST_SOCKET_BYTES = 104 - 1 - len(".4194304")
# What class paths, Kafka's and Elasticsearch's lists, database URLs and the supervisor's comments take for their own.
UNFIT = frozenset(",:;#?%\"'\\\n")


def findings(settings: Settings, services: Iterable[Service]) -> list[Finding]:
    """Every check, for starting these services."""
    services = list(services)
    where = paths.of(settings)
    return [
        _python(),
        *placement(where),
        _disk(where),
        _memory(sum(service.memory_mib for service in services)),
        *distinct_ports((service.setting, service.port) for service in services),
        *(_port(where, service) for service in services),
        *(_zstd() for service in services if service.name == elasticsearch.NAME),
    ]


def _python() -> Finding:
    low, high = PYTHONS
    version = sys.version_info[:2]
    text = f"Python {sys.version.split()[0]}"
    if low <= version <= high:
        return Finding("Python", True, text)
    return Finding("Python", False, f"{text} is not supported: use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}.")


def placement(where: Paths) -> list[Finding]:
    """Whether services can work with these paths: the check that comes before the state folder is made."""
    length = len(bytes(where.socket))
    found = []
    if length > MOST_SOCKET_BYTES:
        spare = length - MOST_SOCKET_BYTES
        found.append(
            f"The path {where.socket} has {length} bytes; a socket's may have {MOST_SOCKET_BYTES}. Move the checkout "
            f"to a path {spare} bytes shorter, or set DATASTREAM_STATE in .env to a short absolute path."
        )
    for what, path, remedy in (
        ("state folder", where.state, "Set DATASTREAM_STATE in .env to a plain path."),
        ("checkout", ROOT, "Move it to a plain path."),
        ("jar cache", jars.cache(), "Set XDG_CACHE_HOME to a plain path."),
        ("Python", Path(sys.executable), "Make the virtual environment at a plain path."),
    ):
        unfit = sorted(UNFIT & set(str(path)))
        if unfit:
            found.append(
                f"The {what}'s path {path} has {' '.join(map(repr, unfit))} in it, which services misread. {remedy}"
            )
    if found:
        return [Finding("Paths", False, text) for text in found]
    return [Finding("Paths", True, f"state in {where.state}")]


def _disk(where: Paths) -> Finding:
    place = next(folder for folder in (where.state, *where.state.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.1f} GB free at {place}"
    if free >= FREE_DISK_GB:
        return Finding("Disk", True, text)
    remedy = "Free some, or set DATASTREAM_STATE in .env to a folder on another disk."
    return Finding("Disk", False, f"Only {text}; {FREE_DISK_GB:.0f} GB are needed. {remedy}")


def _memory(needed_mib: int) -> Finding:
    free = _free_memory_mib()
    text = f"{free} MiB of memory free"
    if free >= needed_mib:
        return Finding("Memory", True, text)
    remedy = "Close something, or start fewer services with --only."
    return Finding("Memory", False, f"Only {text}; {needed_mib} MiB are needed. {remedy}")


def _free_memory_mib() -> int:
    """What the machine has to spare, and the container, if a limit is set on it."""
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free // 2**20


def _port(where: Paths, service: Service) -> Finding:
    name = f"{service.title}'s port"
    if ports.is_free(service.port):
        return Finding(name, True, f"{service.port} is free")
    holder = ports.holder(service.port)
    if holder is not None and processes.belongs(holder, where):
        return Finding(name, True, f"{service.port} is held by this stack (pid {holder.pid})")
    who = "another user's process" if holder is None else f"pid {holder.pid} ({holder.name()})"
    return Finding(
        name,
        False,
        f"{name} {service.port} is in use by {who}. Stop that, or set {service.setting} in .env to a free port. "
        "The stack in Docker (`make down` stops it) and the services of another checkout use the same ports by "
        "default: only one can run.",
    )


def _zstd() -> Finding:
    """No fault: nothing in this project needs it."""
    library = elasticsearch.find_zstd()
    without = "none found: indices with best_compression would not work (install libzstd1, or zstd with Homebrew)"
    return Finding("zstd library", True, str(library or without))
