"""Rules for the environments dev, staging and prod: `make up ENV=staging`."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from jobs.settings import ROOT
from jobs.verticals import merge_settings
from tests.contract.test_compose import needs_compose

NAMES = ("dev", "staging", "prod")
SECRET = re.compile("PASSWORD|SECRET|KEY")


def read(name: str) -> dict[str, str | None]:
    return dotenv_values(ROOT / "env" / f"{name}.env")


def test_these_are_all_environments() -> None:
    committed = {path.name for path in (ROOT / "env").iterdir() if not path.name.endswith(".secrets.env")}
    assert committed == {f"{name}.env" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_has_known_settings_and_no_secret(name: str) -> None:
    values = read(name)
    example = dotenv_values(ROOT / ".env.example")
    assert values.keys() <= example.keys() | {"DATASTREAM_STATE"}
    assert not [setting for setting in values if SECRET.search(setting)]
    assert values["COMPOSE_PROJECT_NAME"] == f"datastream-{name}"
    assert values["DATASTREAM_STATE"] == f".local-{name}"
    merge_settings()(_env_file=ROOT / "env" / f"{name}.env")  # every value is valid


def test_staging_and_production_run_beside_development() -> None:
    """No two of them share a port, and each sets all ports."""
    example = dotenv_values(ROOT / ".env.example")
    ports = {setting for setting in example if setting.endswith("_PORT")}
    assert ports <= read("staging").keys() & read("prod").keys()
    assert not ports & read("dev").keys()
    numbers = [[values[port] for port in ports] for values in (example, read("staging"), read("prod"))]
    assert len(set(itertools.chain(*numbers))) == 3 * len(ports)


@needs_compose
@pytest.mark.parametrize("options", [{}, {"COMPOSE_ENV_FILES": "env/staging.env,env/staging.secrets.env"}])
def test_an_environment_takes_nothing_from_the_other_settings_file(tmp_path: Path, options: dict[str, str]) -> None:
    """Compose would read infra/.env for the included files."""
    shutil.copytree(ROOT / "infra", tmp_path / "infra", ignore=shutil.ignore_patterns("*.py", ".env", "local"))
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    shutil.copytree(ROOT / "env", tmp_path / "env")
    (tmp_path / "env" / "staging.secrets.env").write_text("ELASTIC_PASSWORD=of-staging\n")
    (tmp_path / ".env").write_text("ELASTIC_PASSWORD=mine\nSHOP_POSTGRES_PASSWORD=mine\nMAX_RECORDS_PER_RUN=11\n")
    (tmp_path / "infra" / ".env").symlink_to("../.env")
    arguments = [] if options else ["--env-file", "env/staging.env"]
    result = subprocess.run(
        ["docker", "compose", *arguments, "--profile", "*", "config", "--format", "json"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]} | options,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    configuration = json.loads(result.stdout)
    assert configuration["name"] == "datastream-staging"
    assert configuration["services"]["kibana"]["ports"][0]["published"] == "15601"
    password = configuration["services"]["elasticsearch"]["environment"]["ELASTIC_PASSWORD"]
    assert password == ("of-staging" if options else "changeme")
    assert "mine" not in result.stdout.replace("determine", "")
    assert '"11"' not in result.stdout
    assert all(volume["name"].startswith("datastream-staging_") for volume in configuration["volumes"].values())


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_settings_of_an_environment_replace_those_of_the_settings_file() -> None:
    code = "from jobs.settings import Settings, load; s = load(Settings); print(s.kafka_port, s.datastream_state.name)"
    shown = run(sys.executable, "-c", code, COMPOSE_ENV_FILES="env/staging.env,env/missing.secrets.env")
    assert shown.stdout == "29192 .local-staging\n", shown.stderr


def test_make_selects_the_environment_from_its_command_line_only() -> None:
    def show(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("make", "--eval", "show: ; @echo $$COMPOSE_ENV_FILES", "show", *arguments, ENV="/home/user/.shrc")

    assert show("ENV=staging").stdout.startswith("env/staging.env")
    assert show().stdout == "\n"
    unknown = show("ENV=other")
    assert unknown.returncode == 2
    assert "no file env/other.env. The environments: dev prod staging" in unknown.stderr


def test_the_secrets_of_an_environment_are_generated_beside_its_file(tmp_path: Path) -> None:
    (tmp_path / "staging.env").write_text("COMPOSE_PROJECT_NAME=datastream-staging\n")
    code = (
        "import os; from infra.docker import environment as e; "
        "print(e.write(), e.write(), e.FILE.name, os.environ['COMPOSE_ENV_FILES'])"
    )
    shown = run(sys.executable, "-c", code, COMPOSE_ENV_FILES=str(tmp_path / "staging.env"))
    files = f"{tmp_path / 'staging.env'},{tmp_path / 'staging.secrets.env'}"
    assert shown.stdout.split() == ["True", "False", "staging.secrets.env", files], shown.stderr
    secrets = dotenv_values(tmp_path / "staging.secrets.env")
    assert secrets["ELASTIC_PASSWORD"] not in ("", "changeme", None)
    assert (tmp_path / "staging.secrets.env").stat().st_mode & 0o777 == 0o600
