"""The deployment without an emulator: package, rights, settings, errors."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra.local.runner.ports import find_free
from jobs.clients import Systems
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.serverless import deploy as deployment
from jobs.serverless.aws import make_client, translate_errors
from jobs.serverless.deploy import deploy, destroy, make_package, make_policy, make_variables
from jobs.serverless.ledger import take_ledger
from jobs.serverless.vertical import ServerlessSettings


def make_settings(**values: Any) -> ServerlessSettings:
    return ServerlessSettings(_env_file=None, **values)  # type: ignore[call-arg]


@pytest.fixture
def away() -> ServerlessSettings:
    """Nothing listens there."""
    return make_settings(serverless_port=find_free(1)[0])


def test_the_same_code_makes_the_same_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = make_package()
    copy = tmp_path / deployment.SOURCE.name
    copy.write_bytes(deployment.SOURCE.read_bytes())
    copy.chmod(0o600)
    monkeypatch.setattr(deployment, "SOURCE", copy)
    assert make_package() == package
    with zipfile.ZipFile(io.BytesIO(package)) as file:
        assert file.namelist() == ["lambda_consumer.py"]
        (entry,) = file.infolist()
        assert entry.external_attr >> 16 == 0o644, "Lambda runs as another user"
    copy.write_text("changed")
    assert make_package() != package


def test_the_package_needs_nothing_but_boto3() -> None:
    imported = set(re.findall(r"(?m)^(?:from|import) ([\w]+)", deployment.SOURCE.read_text()))
    assert not imported & {"jobs", "infra", "producer"}
    assert imported - sys.stdlib_module_names == {"boto3", "botocore"}


def test_the_function_has_the_rights_to_what_it_calls_and_no_others() -> None:
    policy = make_policy("stream", ["one", "two"], "queue", "logs")
    rights = {statement["Resource"]: statement["Action"] for statement in policy["Statement"]}
    assert rights.keys() == {"stream", "one", "two", "queue", "logs:*"}
    # The only call of DynamoDB in the code.
    calls = set(re.findall(r"(?:table|tables\.\w+)\.(\w+)\(", deployment.SOURCE.read_text()))
    assert calls == {"put_item"}
    assert rights["one"] == rights["two"] == ["dynamodb:PutItem"]
    assert not any("*" in action for actions in rights.values() for action in actions)


@pytest.mark.parametrize(("emulator", "partial"), [("ministack", "false"), ("localstack", "true"), ("none", "true")])
def test_partial_responses_are_used_only_where_they_are_honoured(emulator: str, partial: str) -> None:
    assert make_variables(make_settings(serverless_emulator=emulator))["PARTIAL_BATCH"] == partial


def test_aws_itself_is_left_to_terraform() -> None:
    for run in (deploy, destroy):
        with pytest.raises(ConfigurationError, match="terraform -chdir=infra/terraform/aws apply"):
            run(make_settings(serverless_emulator="none"))


@pytest.mark.parametrize(
    ("emulator", "remedy"), [("ministack", "make local-up VERTICAL=serverless"), ("localstack", "exit code 55")]
)
def test_an_emulator_that_is_away_is_an_error_with_the_remedy(
    away: ServerlessSettings, emulator: str, remedy: str
) -> None:
    settings = away.model_copy(update={"serverless_emulator": emulator})
    for run in (lambda: deploy(settings), lambda: take_ledger(Systems(settings))):
        with pytest.raises(ServiceUnavailableError, match=remedy):
            run()


@pytest.mark.parametrize("profile", ["", "absent"])
def test_aws_without_a_login_is_an_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    # Another region: sessions are kept.
    settings = make_settings(serverless_emulator="none", serverless_region=f"eu-west-{1 + bool(profile)}")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE"), translate_errors(settings, "listing"):
        make_client(settings, "kinesis").list_streams()


def test_the_emulator_gets_neither_profile_nor_login_of_aws(
    monkeypatch: pytest.MonkeyPatch, away: ServerlessSettings
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    settings = away.model_copy(update={"serverless_region": "eu-north-1"})
    credentials = make_client(settings, "kinesis")._request_signer._credentials
    assert (credentials.access_key, credentials.secret_key) == ("test", "test")


def test_the_address_of_an_emulator_does_not_redirect_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    client = make_client(make_settings(serverless_emulator="none", serverless_region="eu-west-3"), "kinesis")
    assert client.meta.endpoint_url == "https://kinesis.eu-west-3.amazonaws.com"
