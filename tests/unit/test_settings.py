"""Settings: .env.example explains them all, and errors name the setting and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from jobs import __main__ as command_line
from jobs.cli import ledger as ledger_command
from jobs.errors import ConfigurationError
from jobs.settings import ROOT, list_variables, load
from jobs.settings import Settings as CoreSettings
from jobs.verticals import merge_settings

Settings = merge_settings()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of this shell and the .env of this checkout."""
    for field in Settings.model_fields:
        for name in list_variables(Settings, field):
            monkeypatch.delenv(name, raising=False)
    for kind in (Settings, CoreSettings):
        monkeypatch.setitem(kind.model_config, "env_file", None)


# A rate for each producer; less memory in Docker.
OTHER_DEFAULTS = ("PRODUCER_RATE", "SPARK_DRIVER_MEMORY", "SPARK_EXECUTOR_MEMORY")


def example() -> Iterator[tuple[str, str]]:
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name, value


@pytest.mark.parametrize(
    "same", [("raw_topic", "result_topic"), ("raw_topic", "dlq_topic"), ("result_topic", "dlq_topic")]
)
def test_topics_must_have_different_names(monkeypatch: pytest.MonkeyPatch, same: tuple[str, str]) -> None:
    for name in same:
        monkeypatch.setenv(name.upper(), "rides")
    with pytest.raises(ConfigurationError, match=r"=rides.*: topics must have different names"):
        load(Settings)


COMMANDS = [command.name or command.callback.__name__ for command in command_line.app.registered_commands]
ARGUMENTS = {
    "engine": ["spark"],
    "offsets": ["dag_compute_cost", "end"],
    "reprocess": ["2026-01-05", "2026-01-06"],
    "trace": ["00000000-0000-0000-0000-000000000000"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_rejects_topics_with_the_same_name(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """The client ends in a segmentation fault when it creates a topic twice in one call."""
    monkeypatch.setenv("DLQ_TOPIC", "rides_raw")
    done = CliRunner().invoke(command_line.app, [command, *ARGUMENTS.get(command, [])])
    if command == "ledger":
        assert done.exit_code == 3
    else:
        assert isinstance(done.exception, ConfigurationError), done.output
        assert "topics must have different names" in str(done.exception)


def test_a_ledger_written_to_a_closed_pipe_has_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich ends a write to a closed pipe with SystemExit(1)."""

    def broken_pipe(vertical: str, *, as_json: bool) -> int:
        raise SystemExit(1)

    monkeypatch.setattr(ledger_command, "_ledger", broken_pipe)
    assert CliRunner().invoke(command_line.app, ["ledger"]).exit_code == 3


def test_the_example_lists_every_setting_once_with_its_default() -> None:
    names = [name for name, _ in example()]
    assert len(names) == len(set(names))
    defaults = Settings()
    # test_compose.py checks the settings that only containers read.
    for field, info in Settings.model_fields.items():
        # With its second name, if it has one: the first would win over what a user changes.
        name = list_variables(Settings, field)[-1]
        value = dict(example())[name]
        default = getattr(defaults, field)
        assert default == info.default
        if isinstance(default, Path):
            assert ROOT / value == default
        elif name not in OTHER_DEFAULTS:
            assert default == type(default)(value)


def test_every_setting_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            block = lines[: number + 1]
            above = next(text for text in reversed(block) if text.startswith("#") or not text)
            assert above.startswith("#"), f"{line} stands in a block without a comment"


def test_the_example_gives_the_default_settings() -> None:
    assert Settings(_env_file=ROOT / ".env.example") == Settings()


def test_addresses_follow_ports_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(kafka_port=1, elasticsearch_port=2, gcs_port=3)
    assert (settings.bootstrap_servers, settings.es_url, settings.gcs_endpoint) == (
        "127.0.0.1:1",
        "http://127.0.0.1:2",
        "http://127.0.0.1:3",
    )
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("ELASTICSEARCH_URL", "https://search:9200")
    monkeypatch.setenv("GCS_EMULATOR_URL", "http://gcs:4443")
    settings = load(Settings)
    assert (settings.bootstrap_servers, settings.es_url, settings.gcs_endpoint) == (
        "a:1,b:2",
        "https://search:9200",
        "http://gcs:4443",
    )


@pytest.mark.parametrize(
    ("given", "is_google"),
    [
        ({}, False),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, False),  # it may be set for another purpose
        ({"GCS_BUCKET": "mine"}, False),
        ({"GCS_BUCKET": "mine", "GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, True),
        ({"GCS_BUCKET": "mine", "GOOGLE_APPLICATION_CREDENTIALS": "/key.json", "CLOUD_STORAGE": "emulator"}, False),
        ({"GCS_BUCKET": "mine", "CLOUD_STORAGE": "google"}, True),
    ],
)
def test_google_storage_is_used_when_bucket_and_credentials_are_set(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], is_google: bool
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (load(Settings).gcs_endpoint is None) == is_google


def test_a_relative_key_path_starts_at_the_infra_folder() -> None:
    assert Settings(google_application_credentials="./key.json").gcs_credentials_file == ROOT / "infra" / "key.json"
    assert Settings(google_application_credentials="/key.json").gcs_credentials_file == Path("/key.json")
    assert Settings().gcs_credentials_file is None


def test_the_environment_overrides_the_file_and_empty_means_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("RAW_TOPIC=from_file\nRESULT_TOPIC=from_file\nDLQ_TOPIC=\n")
    monkeypatch.setitem(Settings.model_config, "env_file", file)
    monkeypatch.setenv("RAW_TOPIC", "from_environment")
    monkeypatch.setenv("RESULT_TOPIC", "")
    settings = load(Settings)
    assert (settings.raw_topic, settings.result_topic, settings.dlq_topic) == (
        "from_environment",
        "from_file",
        "rides_dlq",
    )


def test_the_staging_folder_follows_the_state_folder_or_its_setting(tmp_path: Path) -> None:
    assert Settings(datastream_state=tmp_path).staging == f"file://{tmp_path}/staging"
    google = Settings(staging_url="gs://bucket/staging/", gcs_bucket="bucket", cloud_storage="google")
    assert google.staging == "gs://bucket/staging"
    assert Settings(datastream_state=Path(".other")).datastream_state == ROOT / ".other"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DISTANCE_METHOD", "foo"),
        ("KAFKA_PORT", "0"),
        ("KAFKA_PORT", "65536"),
        ("KAFKA_PORT", "many"),
        ("CHUNK_RECORDS", "0"),
        ("CHUNK_BYTES", "-1"),
        ("MAX_RECORDS_PER_RUN", "0"),
        ("POLL_WAIT_S", "-1"),
        ("POLL_WAIT_S", "nan"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost"),
        ("KAFKA_BOOTSTRAP_SERVERS", "http://localhost:29092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:70000"),
        ("ELASTICSEARCH_URL", "http://127.0.0.1"),
        ("ELASTICSEARCH_URL", "127.0.0.1:9200"),
        ("ELASTICSEARCH_URL", "http://:9200"),
        ("ELASTICSEARCH_URL", "http://127.0.0.1:port"),
        ("ELASTICSEARCH_URL", "http://127.0.0.1:9200/es"),
        ("KIBANA_URL", "ftp://127.0.0.1:5601"),
        ("GCS_EMULATOR_URL", "http://gcs:4443?project=a"),
        ("GCS_BUCKET", "gs://rides"),
        ("STAGING_URL", "/mnt/staging"),
        ("STAGING_URL", "file://mnt/staging"),
        ("STAGING_URL", "s3://bucket/staging"),
        ("RAW_TOPIC", "rides raw"),
        ("RIDES_INDEX", "Rides"),
        ("RIDES_INDEX", "rides*"),
    ],
)
def test_an_invalid_setting_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"{name}={re.escape(repr(value))}: .*\.env"):
        load(Settings)


def test_an_address_with_a_login_is_rejected_without_showing_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands would use the login, tasks would not."""
    monkeypatch.setenv("ELASTICSEARCH_URL", "https://elastic:secret@search:9200")
    with pytest.raises(ConfigurationError, match=r"ELASTICSEARCH_URL='https://…@search:9200': .*login") as caught:
        load(Settings)
    assert "secret" not in str(caught.value)


def test_google_storage_without_a_bucket_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_STORAGE", "google")
    with pytest.raises(ConfigurationError, match="set GCS_BUCKET"):
        load(Settings)


def test_staging_at_google_without_google_storage_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGING_URL", "gs://bucket/staging")
    with pytest.raises(ConfigurationError, match=r"STAGING_URL=gs://bucket/staging .*CLOUD_STORAGE=auto"):
        load(Settings)


@pytest.mark.parametrize("setting", ["DATASTREAM_STATE", "GOOGLE_APPLICATION_CREDENTIALS"])
def test_a_path_may_start_at_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(setting, "~/x")
    settings = load(Settings)
    path = settings.datastream_state if setting == "DATASTREAM_STATE" else settings.gcs_credentials_file
    assert path == tmp_path / "x"


def test_a_path_at_an_unknown_home_folder_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTREAM_STATE", "~nobody-here/x")
    with pytest.raises(ConfigurationError, match="~nobody-here/x: the home folder is unknown"):
        load(Settings)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_settings_file_in_another_encoding_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / ".env"
    file.write_text("# Réglages\nRAW_TOPIC=rides_raw\n", encoding=encoding)
    monkeypatch.setitem(Settings.model_config, "env_file", file)
    with pytest.raises(ConfigurationError, match=rf"{re.escape(str(file))} is not UTF-8"):
        load(Settings)


def test_a_settings_file_of_a_windows_editor_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"\xef\xbb\xbfRAW_TOPIC=mine\r\nRESULT_TOPIC=ours\r\n")
    monkeypatch.setitem(Settings.model_config, "env_file", file)
    settings = load(Settings)
    assert (settings.raw_topic, settings.result_topic) == ("mine", "ours")


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        load(Settings).raw_topic = "other"  # type: ignore[misc]
