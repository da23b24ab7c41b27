"""The workflows, as far as they can be checked without a runner."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.settings import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROGRAMS = {"docker"}


def read_workflow(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    content: dict[Any, Any] = yaml.safe_load(path.read_text())
    return {"on" if name is True else name: value for name, value in content.items()}


def list_commands(job: dict[str, Any]) -> list[str]:
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    for action in re.findall(r"uses: (.*)", path.read_text()):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_an_action_has_one_version() -> None:
    actions = {action for path in WORKFLOWS for action in re.findall(r"uses: (\S+)", path.read_text())}
    assert len(actions) == len({action.split("@")[0] for action in actions})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_and_end(path: Path) -> None:
    workflow = read_workflow(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_of_workflows_exist(path: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
    for job in read_workflow(path)["jobs"].values():
        for command in list_commands(job):
            program, *arguments = command.split()
            if program == "make":
                assert {argument for argument in arguments if "=" not in argument} <= targets, command
            else:
                assert program in PROGRAMS or (ROOT / program).is_file(), command


def test_the_stack_is_tested_on_the_official_images() -> None:
    workflow = read_workflow(ROOT / ".github" / "workflows" / "stack.yml")
    assert set(workflow["on"]) == {"schedule", "pull_request", "workflow_dispatch"}
    assert "infra/**" in workflow["on"]["pull_request"]["paths"]
    assert workflow["concurrency"]["cancel-in-progress"]
    (job,) = workflow["jobs"].values()
    first, *commands, last = list_commands(job)[: list_commands(job).index("make smoke-ui") + 1]
    assert [first, commands[0], last] == ["docker compose up -d --wait", "make smoke", "make smoke-ui"]
    for profile in ("observability", "spark", "tickets", "shop", "flights"):
        assert any(f"--profile {profile} up -d --wait" in command for command in commands)
    assert "make ledger VERTICAL=spark" in commands
    for vertical in ("shop", "flights"):
        assert any(command in (f"make ledger VERTICAL={vertical}", f"make {vertical}-ledger") for command in commands)
        assert f"make {vertical}-page" in commands, "smoke-ui opens it"
    (upload,) = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert upload["if"] == "always()"
    folder = Path(upload["with"]["path"])
    assert folder.parent == Path(".local")
    assert f'"{folder.name}"' in (ROOT / "infra" / "docker" / "browser.py").read_text()
