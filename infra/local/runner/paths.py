"""Files and folders below the state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one stack. Two stacks with different state folders share only the jars.

    Args:
        state: the setting DATASTREAM_STATE.
    """

    state: Path

    @property
    def run(self) -> Path:
        """Generated launch files and configuration, the supervisor's socket, private ports."""
        return self.state / "run"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def secrets(self) -> Path:
        return self.state / "secrets"

    @property
    def tmp(self) -> Path:
        return self.state / "tmp"

    @property
    def staging(self) -> Path:
        """Where `Settings.staging` lets tasks stage messages by default."""
        return self.state / "staging"

    @property
    def socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    def service(self, name: str) -> Path:
        """The data and configuration of a service."""
        return self.state / name


def make_private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can read; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read. Atomic: readers see the old text or the new."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def keep_secret(paths: Paths, name: str, generated: str) -> str:
    """The stored secret; stores the generated one if there is no secret of that name."""
    file = make_private_folder(paths.secrets) / name
    if not file.exists():
        write_private(file, generated)
    return file.read_text(encoding="utf-8")
