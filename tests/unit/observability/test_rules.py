"""The alert rules: promtool's tests, and what every alert needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from jobs.inherited import make_environment
from jobs.settings import ROOT

PROMETHEUS = ROOT / "infra" / "prometheus"
RULES = PROMETHEUS / "rules" / "datastream.yml"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DOCS = ROOT / "docs" / "observability.md"
SEVERITIES = {"critical", "warning", "none"}


def list_alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


ALERTS = list_alerts()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: apt install prometheus)")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", *TESTS)], ids=["check", "test"])
def test_promtool_accepts_the_rules(arguments: tuple[Any, ...]) -> None:
    done = subprocess.run(
        ["promtool", *arguments], env=make_environment(), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["labels"]["service"]
    assert rule["annotations"].keys() == {"summary", "impact", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/observability.md#{name.lower()}"
    assert re.search(rf"(?m)^### {name}$", DOCS.read_text()), f"no section {name} in {DOCS}"


def test_the_runbook_has_no_other_sections() -> None:
    runbook = DOCS.read_text().partition("## Runbook")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^### (\w+)$", runbook) == list(ALERTS)


@pytest.mark.parametrize("name", sorted(ALERTS.keys() - {"Watchdog"}))
def test_an_alert_is_tested_early_firing_and_over(name: str) -> None:
    tests = "".join(path.read_text() for path in TESTS)
    values = re.findall(rf'"{name}".*value: (\d+)', tests)
    fires = values.index("1") if "1" in values else -1
    assert fires > 0, f"{name}: no test before it fires, or none in which it fires"
    assert "0" in values[fires:], f"{name}: no test that it recovers"
