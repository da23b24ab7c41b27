"""Alertmanager's configuration: the receivers of the settings, and no secret in an error."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.alertmanager import FILE, make_configuration
from jobs.errors import ConfigurationError
from jobs.inherited import make_environment
from jobs.observability.vertical import ObservabilitySettings

EXAMPLE = FILE.with_name("receivers.example.yml")


def make(receivers: Path | None) -> str:
    settings = ObservabilitySettings(_env_file=None, observability_receivers=str(receivers or ""))
    return make_configuration(settings)


def test_without_receivers_alerts_are_only_shown() -> None:
    assert yaml.safe_load(make(None)) == yaml.safe_load(FILE.read_text())


def test_the_example_adds_its_receivers_to_the_team() -> None:
    receivers = {receiver["name"]: receiver for receiver in yaml.safe_load(make(EXAMPLE))["receivers"]}
    assert receivers["team"].keys() == {
        "name", "slack_configs", "pagerduty_configs", "email_configs", "webhook_configs",
    }  # fmt: skip
    assert receivers["none"].keys() == {"name"}


@pytest.mark.skipif(
    not shutil.which("amtool"), reason="amtool is not installed (Debian: apt install prometheus-alertmanager)"
)
@pytest.mark.parametrize("receivers", [None, EXAMPLE], ids=["none", "example"])
def test_alertmanager_accepts_it(receivers: Path | None, tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(make(receivers))
    done = subprocess.run(
        ["amtool", "check-config", file],
        env=make_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "content", [b"slack_configs: [secret-token", b"- secret-token", b"route: {receiver: x}", b"\xff", None]
)
def test_a_broken_file_is_named_without_its_content(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "receivers.yml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"OBSERVABILITY_RECEIVERS=.*receivers.example.yml") as error:
        make(file)
    assert "secret-token" not in str(error.value)
