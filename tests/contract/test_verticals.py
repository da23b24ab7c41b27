"""What verticals declare exists and is unique."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from typing import Any

import pytest

from infra.kibana import saved_objects
from jobs.errors import ConfigurationError
from jobs.kafka.topics import load_topics
from jobs.settings import ROOT
from jobs.vertical import Vertical
from jobs.verticals import find_vertical, find_verticals, load_declared_topics, merge_settings

VERTICALS = find_verticals()
# Their settings are older than the rule that names start with the vertical's name.
OLDER = {"rides", "zones"}

each = pytest.mark.parametrize("vertical", VERTICALS, ids=lambda vertical: vertical.name)


def settings_of(vertical: Vertical) -> Any:
    return vertical.settings(_env_file=None)  # type: ignore[call-arg]


def test_every_package_that_declares_a_vertical_is_found() -> None:
    names = [vertical.name for vertical in VERTICALS]
    assert names[0] == "rides"
    assert "zones" in names
    with pytest.raises(ConfigurationError, match=r"There is no vertical 'ticket'. Verticals: rides, .*zones"):
        find_vertical("ticket")


def test_a_vertical_that_cannot_be_imported_gives_exit_code_3() -> None:
    code = (
        "import sys, jobs.verticals as verticals\n"
        "verticals.find_verticals = lambda: 1 / 0\n"
        "sys.argv = ['jobs', sys.argv[1]]\n"
        "import jobs.__main__\n"
    )
    commands = [sys.executable, "-c", code, "ledger"], [sys.executable, "-c", code, "lag"]
    codes = [subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode for command in commands]
    assert codes == [3, 3], "1 of the ledger would mean that something is lost"


@each
def test_folders_are_named_after_the_vertical(vertical: Vertical) -> None:
    assert vertical.settings.__module__.split(".")[-2:] == [vertical.name, "vertical"]
    if vertical.topics:
        assert vertical.topics == ROOT / "infra" / "kafka" / "topics" / f"{vertical.name}.yml"
    if vertical.dashboard:
        assert saved_objects.read(saved_objects.objects_folder(vertical.name))
        assert saved_objects.ndjson(vertical.name).exists()


@each
def test_imports_of_every_vertical_are_checked(vertical: Vertical) -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert any(f"jobs.{vertical.name}" in re.findall(r"[\w.]+", layer) for layer in contract["layers"])


@each
def test_a_vertical_names_only_its_own_settings(vertical: Vertical) -> None:
    settings = settings_of(vertical)
    named = {*vertical.variables, *vertical.templates, *vertical.command_groups.values()}
    named |= {group.topic for group in (*vertical.groups, *vertical.streams)}
    if vertical.dead_letters:
        named |= {vertical.dead_letters.topic, *vertical.dead_letters.sources}
    assert all(hasattr(settings, name) for name in named)
    inherited = {name for base in vertical.settings.__bases__ for name in getattr(base, "model_fields", ())}
    added = set(vertical.settings.model_fields) - inherited
    assert vertical.name in OLDER or all(name.startswith(f"{vertical.name}_") for name in added)


@each
def test_topics_match_the_topics_file_of_the_vertical(vertical: Vertical) -> None:
    if vertical.topics is None:
        return
    topics = load_topics(vertical.topics, settings_of(vertical))
    assert {topic.setting.lower() for topic in topics} == set(vertical.settings.topic_settings)


@each
def test_dags_templates_and_ledger_of_a_vertical_exist(vertical: Vertical) -> None:
    dags = {path.stem.removeprefix("dag_") for path in (ROOT / "airflow" / "dags").glob("dag_*.py")}
    assert {dag.removeprefix("dag_") for dag in vertical.dags} <= dags
    assert all(path.exists() for path in vertical.templates.values())
    assert not vertical.ledger or callable(pkgutil.resolve_name(vertical.ledger))


def test_groups_dags_and_indices_are_declared_once() -> None:
    counts: Counter[str] = Counter()
    for vertical in VERTICALS:
        replay = [vertical.dead_letters.replay_group] if vertical.dead_letters else []
        declared = (*vertical.groups, *vertical.streams)
        groups = [*(group.id for group in declared), *vertical.command_groups, *replay]
        counts.update(f"group {group}" for group in groups)
        counts.update(f"wait {vertical.name} {group.done}" for group in vertical.groups)
        counts.update(f"dag {dag}" for dag in vertical.dags)
        counts.update(f"index {getattr(settings_of(vertical), name)}" for name in vertical.templates)
    assert [name for name, count in counts.items() if count > 1] == []


def test_topic_names_of_all_verticals_are_unique() -> None:
    names = [topic.name for topic in load_declared_topics(merge_settings()(_env_file=None))]  # type: ignore[call-arg]
    assert len(names) == len(set(names)) >= 3
