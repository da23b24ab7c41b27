"""Finds the verticals: every package below jobs/ with a module `vertical` that defines `VERTICAL`."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from pydantic import create_model

import jobs
from jobs.errors import ConfigurationError
from jobs.kafka.topics import Topic, load_topics
from jobs.settings import Settings, check_distinct
from jobs.vertical import Vertical


@cache
def find_verticals() -> tuple[Vertical, ...]:
    """The verticals, rides first and the others by name.

    Raises:
        ConfigurationError: a vertical cannot be imported.
    """
    folders = [Path(folder) for folder in jobs.__path__]
    files = [file.relative_to(folder) for folder in folders for file in folder.glob("**/*/vertical.py")]
    packages = sorted(".".join(file.parent.parts) for file in files)
    verticals = [_import_vertical(package) for package in packages]
    return tuple(sorted(verticals, key=lambda vertical: vertical.name != "rides"))


def _import_vertical(package: str) -> Vertical:
    """The vertical that a package below jobs/ declares."""
    module = f"jobs.{package}.vertical"
    try:
        vertical: Vertical = importlib.import_module(module).VERTICAL
    except Exception as error:
        raise ConfigurationError(
            f"Cannot import the vertical {package!r} ({module}): {type(error).__name__}: {error}. Correct the module, "
            "or remove the package."
        ) from error
    return vertical


def find_vertical(name: str) -> Vertical:
    """The vertical of that name.

    Raises:
        ConfigurationError: it does not exist.
    """
    by_name = {vertical.name: vertical for vertical in find_verticals()}
    if name not in by_name:
        raise ConfigurationError(f"There is no vertical {name!r}. Verticals: {', '.join(by_name)}.")
    return by_name[name]


@cache
def merge_settings() -> type[Settings]:
    """One class with the settings of all verticals."""
    kinds = {vertical.settings for vertical in find_verticals()}
    leaves = [kind for kind in kinds if not any(issubclass(other, kind) for other in kinds - {kind})]
    return create_model("StackSettings", __base__=tuple(sorted(leaves, key=lambda kind: kind.__name__)))


def list_index_templates(settings: Settings) -> dict[str, Path]:
    """The index template files of all verticals, by the name of the index in these settings."""
    return {getattr(settings, name): path for vertical in find_verticals() for name, path in vertical.templates.items()}


def load_declared_topics(settings: Settings, broker: str = "") -> list[Topic]:
    """The topics of all verticals, with the names in these settings.

    Args:
        broker: only the topics on the broker with this address.

    Raises:
        ConfigurationError: a file is invalid, or two topics have the same name.
    """
    verticals = [vertical for vertical in find_verticals() if broker in ("", getattr(settings, vertical.broker))]
    files = [vertical.topics for vertical in verticals if vertical.topics is not None]
    topics = [topic for file in files for topic in load_topics(file, settings)]
    check_distinct(*(topic.name for topic in topics))
    return topics
