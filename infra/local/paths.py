"""Where everything is, under one state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.settings import Settings


@dataclass(frozen=True)
class Paths:
    """The folders and files of one stack; two stacks with different state folders share nothing but the jars."""

    state: Path

    @property
    def run(self) -> Path:
        """Generated launch files and configuration, the supervisor's socket, ports picked once."""
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
    def kafka(self) -> Path:
        return self.state / "kafka"

    @property
    def elasticsearch(self) -> Path:
        return self.state / "elasticsearch"

    @property
    def gcs(self) -> Path:
        return self.state / "gcs"

    @property
    def airflow(self) -> Path:
        return self.state / "airflow"

    @property
    def socket(self) -> Path:
        return self.run / "supervisor.sock"


def of(settings: Settings) -> Paths:
    return Paths(settings.datastream_state)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can read; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
