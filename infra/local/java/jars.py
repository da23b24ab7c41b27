"""The jars of `jars.lock`: downloads and verifies them, and knows their place in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.maven import MavenContext
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from jobs.errors import ConfigurationError, ServiceUnavailableError

LOCK = Path(__file__).with_name("jars.lock")
TIMEOUT_S = 30
TRIES = 3


class DownloadError(ServiceUnavailableError):
    """A jar cannot be downloaded, or differs from `jars.lock`."""


@dataclass(frozen=True)
class Jar:
    """A Maven coordinate and the SHA-256 of the jar's bytes in hexadecimal."""

    group: str
    artifact: str
    version: str
    sha256: str

    @classmethod
    def parse(cls, coordinate: str, sha256: str) -> Jar:
        group, artifact, version = coordinate.split(":")
        return cls(group, artifact, version, sha256)

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def path(self) -> Path:
        """Its place in the cache, which has the layout of a Maven repository."""
        return cache().joinpath(
            *self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar"
        )


def cache() -> Path:
    """The folder of the jars: shared by all checkouts and kept by `clean`, so that the next start works offline."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datastream" / "jars"
    except RuntimeError as error:
        raise ConfigurationError("This user has no home folder for the downloaded jars. Set XDG_CACHE_HOME.") from error


def read_locked(name: str) -> list[Jar]:
    """The jars of a set (`infra.local.java.lock.ROOTS`)."""
    lines = (line.split() for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return [Jar.parse(coordinate, digest) for set_name, coordinate, digest in lines if set_name == name]


def fetch(names: Iterable[str], report: Callable[[str], None] = lambda _: None) -> None:
    """Download the jars of these sets that the cache does not have, and verify all.

    Args:
        report: called before a download.

    Raises:
        DownloadError: names the first jar and the remedy.
    """
    # Sets share jars.
    wanted = list(dict.fromkeys(jar for name in names for jar in read_locked(name)))
    with ThreadPoolExecutor(8) as pool:
        valid = list(pool.map(_is_valid, wanted))
        missing = [jar for jar, is_valid in zip(wanted, valid, strict=True) if not is_valid]
        if not missing:
            return
        report(f"downloading {len(missing)} jars to {cache()}")
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache()) as partial:
            faults = [fault for fault in pool.map(lambda jar: _download(jar, Path(partial)), missing) if fault]
    if faults:
        raise DownloadError(
            f"Could not download {len(faults)} of {len(missing)} jars from Maven. The first: {faults[0]}.\n"
            f"They are downloaded once, to {cache()}. Behind a proxy, set HTTPS_PROXY (and REQUESTS_CA_BUNDLE for its "
            "certificate). For a mirror, put `central = <its URL>` under [repositories] in ~/.config/jgo.conf. Without "
            "a network, copy that folder from another machine."
        )


def copy(name: str, folder: Path) -> None:
    """Copy the jars of a set from the cache into a folder."""
    for jar in read_locked(name):
        shutil.copy(jar.path, folder)


def _is_valid(jar: Jar) -> bool:
    return jar.path.is_file() and digest_file(jar.path) == jar.sha256


def _download(jar: Jar, partial: Path) -> str | None:
    """Download one jar; returns what is wrong, or None."""
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
                # jgo writes in place and would accept a truncated download.
                if artifact.cached_path is not None:
                    artifact.cached_path.unlink(missing_ok=True)
                path = artifact.resolve()
    except (requests.RequestException, RuntimeError, OSError) as error:
        return f"{jar}: {error}"
    digest = digest_file(path)
    if digest != jar.sha256:
        return f"{jar}: its SHA-256 is {digest}, jars.lock says {jar.sha256}"
    # Atomic, so that the cache has only verified files when two commands download at the same time.
    jar.path.parent.mkdir(parents=True, exist_ok=True)
    path.replace(jar.path)
    return None


def _repositories() -> dict[str, str]:
    return {**MavenContext().remote_repos, **GlobalSettings.load().repositories}


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
