"""The environment of the processes that we start: an allow-list of variables, UTF-8, proxies for remote hosts only."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from jobs.settings import LOOPBACK

# Names of variables, and patterns. The Makefile reads the same file.
INHERITED = tuple(
    name
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for name in line.split()
)

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
# A host, a domain or an IPv4 network, with or without a port.
_HOST = re.compile(r"\.?[\w-]+(\.[\w-]+)*(/\d+)?(:\d+)?", re.ASCII)
_LOCAL_HOSTS = (LOOPBACK, "localhost", "::1")


def make_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process: the inherited variables of this one, and the given ones, which override them."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if value and any(fnmatchcase(name, pattern) for pattern in INHERITED)
    }
    return {
        "PATH": os.defpath,
        # Airflow needs a name, and a user id may have none.
        "USER": str(os.getuid()),
        **_replace_proxies(inherited),
        # With another locale, a JVM misreads paths with accents, and Python writes logs in another encoding.
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        **(variables or {}),
    }


def adopt_proxies() -> None:
    """Give this process the proxies that `make_environment` gives to others."""
    adopted = _replace_proxies(os.environ)
    os.environ.clear()
    os.environ.update(adopted)


def _replace_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """Replace the proxy settings by those of `read_proxies`."""
    kept = {name: value for name, value in variables.items() if name.upper() not in (*_PROXIES, "NO_PROXY")}
    return kept | read_proxies(variables)


def read_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """The proxies for remote hosts, in a form that every client accepts. Local hosts never use a proxy.

    requests, httpx (in Airflow) and uv fail at once for a proxy or a NO_PROXY entry that they cannot parse.

    Returns:
        HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in upper and lower case; empty without a proxy.
    """

    def read(name: str) -> str:
        return variables.get(name.lower()) or variables.get(name, "")

    proxies = {name: url for name in _PROXIES if (url := _normalise_proxy(read(name)))}
    entries = [entry.strip() for entry in read("NO_PROXY").split(",")]
    if not proxies or "*" in entries:
        return {}
    hosts = [host for entry in entries if (host := _normalise_host(entry))]
    proxies["NO_PROXY"] = ",".join(dict.fromkeys([*hosts, *_LOCAL_HOSTS]))
    return proxies | {name.lower(): value for name, value in proxies.items()}


def _normalise_proxy(url: str) -> str | None:
    """The URL of a proxy with its scheme; None if there is no usable proxy."""
    scheme, _, address = url.strip().rpartition("://")
    # As curl: no scheme is HTTP. GNOME sets socks://, which is SOCKS 5.
    scheme = {"": "http", "socks": "socks5h"}.get(scheme.lower(), scheme.lower())
    return f"{scheme}://{address}" if address and scheme in _PROXY_SCHEMES else None


def _normalise_host(entry: str) -> str | None:
    """An entry of NO_PROXY; None if httpx cannot parse it, as an IPv6 network."""
    entry = entry.removeprefix("*").strip("[]")
    try:
        return str(ipaddress.ip_address(entry))
    except ValueError:
        return entry if _HOST.fullmatch(entry) else None
