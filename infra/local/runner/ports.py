"""Ports: which are free, which process holds one, and private ones that users need not know."""

from __future__ import annotations

import random
import socket
from itertools import islice

import psutil

from infra.local.runner.paths import Paths, write_private
from jobs.errors import ConfigurationError
from jobs.settings import LOOPBACK

# Below the ephemeral range of Linux and macOS, so that no outgoing connection takes one between two starts.
_PRIVATE = range(20_000, 32_000)
_TRIES = 100


def is_free(port: int) -> bool:
    """Whether no process listens on a port of the loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        # macOS allows binding a port that another process listens on at all addresses.
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def find_free(count: int) -> list[int]:
    """Ports that no process listens on now.

    Raises:
        ConfigurationError: there are fewer.
    """
    tried = random.sample(_PRIVATE, _TRIES + count)
    ports = list(islice(filter(is_free, tried), count))
    if len(ports) < count:
        raise ConfigurationError(f"Fewer than {count} of {len(tried)} ports tried on {LOOPBACK} are free. Close some.")
    return ports


def find_holder(port: int) -> psutil.Process | None:
    """The process that listens on a port; None if this user may not see it."""
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


def pick_private(paths: Paths, name: str) -> int:
    """A private port: picked once, then kept in the state folder so that configuration stays the same.

    Raises:
        ConfigurationError: there is no free port.
    """
    file = paths.run / f"{name}.port"
    if not file.exists():
        write_private(file, str(find_free(1)[0]))
    return int(file.read_text())


def forget_taken(paths: Paths) -> None:
    """Forget the private ports that other programs have taken. Call it only while all services are stopped."""
    for file in paths.run.glob("*.port"):
        if not is_free(int(file.read_text())):
            file.unlink()
