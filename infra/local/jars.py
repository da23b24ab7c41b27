"""Kafka's and Elasticsearch's jars: which (`jars.lock`), where they are kept, how they are fetched and verified."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.maven import MavenContext
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from infra.local.errors import DownloadError

LOCK = Path(__file__).with_name("jars.lock")
TIMEOUT_S = 30
TRIES = 3


@dataclass(frozen=True)
class Jar:
    """A Maven coordinate and the SHA-256 of the jar's bytes in hexadecimal."""

    group: str
    artifact: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def path(self) -> Path:
        """Where the cache keeps it, in a Maven repository's layout."""
        return cache().joinpath(
            *self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar"
        )


def cache() -> Path:
    """Shared by every checkout and kept by `clean`, so that a second start works offline."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datastream" / "jars"


def locked(name: str) -> list[Jar]:
    """The jars of a set of `infra.local.lock.ROOTS`."""
    lines = (line.split() for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found = []
    for kind, coordinate, digest in lines:
        group, artifact, version = coordinate.split(":")
        if kind == name:
            found.append(Jar(group, artifact, version, digest))
    return found


def fetch(names: Iterable[str], report: Callable[[str], None] = lambda _: None) -> None:
    """Have every jar of the named sets in the cache, verified; `report` is told when there is something to download.

    Raises:
        DownloadError: names the jars and the remedy.
    """
    wanted = [jar for name in names for jar in locked(name)]
    with ThreadPoolExecutor(8) as pool:
        sound = list(pool.map(_sound, wanted))
        missing = [jar for jar, good in zip(wanted, sound, strict=True) if not good]
        if not missing:
            return
        report(f"downloading {len(missing)} jars to {cache()}")
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache()) as partial:
            faults = [fault for fault in pool.map(lambda jar: _download(jar, Path(partial)), missing) if fault]
    if faults:
        raise DownloadError(
            f"{len(faults)} of {len(missing)} jars could not be had from the Maven registry. The first: {faults[0]}.\n"
            "Needed once, then kept in "
            f"{cache()}. Behind a proxy set HTTPS_PROXY (and REQUESTS_CA_BUNDLE for its certificate); for a mirror put "
            "`central = <its URL>` under [repositories] in ~/.config/jgo.conf; without a network copy that folder "
            "from a machine that has it."
        )


def _sound(jar: Jar) -> bool:
    return jar.path.is_file() and digest_of(jar.path) == jar.sha256


def _download(jar: Jar, partial: Path) -> str | None:
    """Fetch one jar; returns what is wrong, or None."""
    context = MavenContext(repo_cache=partial, local_repos=[], remote_repos=_repositories(), timeout=TIMEOUT_S)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    try:
        for attempt in Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(multiplier=0.5, max=5),
            retry=retry_if_exception_type(requests.RequestException),
            reraise=True,
        ):
            with attempt:
                # jgo writes in place and would take a broken download for a whole one.
                if artifact.cached_path is not None:
                    artifact.cached_path.unlink(missing_ok=True)
                path = artifact.resolve()
    except (requests.RequestException, RuntimeError, OSError) as error:
        return f"{jar}: {error}"
    found = digest_of(path)
    if found != jar.sha256:
        return f"{jar}: its SHA-256 is {found}, jars.lock says {jar.sha256}"
    # The cache gets whole and verified files only, also with two commands at once.
    jar.path.parent.mkdir(parents=True, exist_ok=True)
    path.replace(jar.path)
    return None


def _repositories() -> dict[str, str]:
    return {**MavenContext().remote_repos, **GlobalSettings.load().repositories}


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
