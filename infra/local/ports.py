"""Ports: which are free, who holds one, and the ones that no user needs to know."""

from __future__ import annotations

import random
import socket
from itertools import islice
from pathlib import Path

import psutil

from infra.local.paths import Paths, write_private
from jobs.errors import ConfigurationError
from jobs.settings import LOOPBACK

# Below the ephemeral range of Linux and macOS, so that no outgoing connection takes one between two starts.
_HIDDEN = range(20_000, 32_000)
_TRIES = 100


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        # macOS lets a port be bound that something else listens on at all addresses.
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free(count: int) -> list[int]:
    """Ports that nobody listens on now.

    Raises:
        ConfigurationError: there are not so many.
    """
    tried = random.sample(_HIDDEN, _TRIES + count)
    found = list(islice(filter(is_free, tried), count))
    if len(found) < count:
        raise ConfigurationError(
            f"No free port among {len(tried)} tried on {LOOPBACK}: too many sockets are open here."
        )
    return found


def holder(port: int) -> psutil.Process | None:
    """Who listens on a port, as far as this user may know."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows other processes' sockets to root only
        return None
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            try:
                return psutil.Process(connection.pid) if connection.pid else None
            except psutil.NoSuchProcess:
                return None
    return None


def chosen(paths: Paths, name: str) -> int:
    """A port for inside use: picked once, then kept in the state folder so that configuration stays the same.

    Raises:
        ConfigurationError: there is no free port.
    """
    file = _file(paths, name)
    if not file.exists():
        write_private(file, str(free(1)[0]))
    return int(file.read_text())


def choose_again(paths: Paths, name: str) -> None:
    """Forget a kept port that something else took meanwhile. Only while its service is stopped."""
    file = _file(paths, name)
    if file.exists() and not is_free(int(file.read_text())):
        file.unlink()


def _file(paths: Paths, name: str) -> Path:
    return paths.run / f"{name}.port"
