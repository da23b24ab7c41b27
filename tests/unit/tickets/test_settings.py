"""The settings of tickets have two names."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.settings import ROOT, list_variables, load
from jobs.tickets.vertical import TicketsSettings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of this shell and the .env of this checkout."""
    for field in TicketsSettings.model_fields:
        for name in list_variables(TicketsSettings, field):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(TicketsSettings.model_config, "env_file", None)


def test_a_setting_can_be_set_by_the_name_without_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPIC_NAME", "tickets")
    monkeypatch.setenv("OUTPUT_PATH", "elsewhere")
    settings = load(TicketsSettings)
    assert (settings.tickets_topic_name, settings.tickets_output_path) == ("tickets", ROOT / "elsewhere")


@pytest.mark.parametrize("in_file", [["TOPIC_NAME"], ["TICKETS_TOPIC_NAME"], ["TICKETS_TOPIC_NAME", "TOPIC_NAME"], []])
def test_the_name_with_the_prefix_wins(in_file: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever the two are set: in the environment or in .env."""
    values = {"TICKETS_TOPIC_NAME": "wins", "TOPIC_NAME": "loses"}
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={values[name]}\n" for name in in_file))
    monkeypatch.setitem(TicketsSettings.model_config, "env_file", file)
    for name in values.keys() - set(in_file):
        monkeypatch.setenv(name, values[name])
    assert load(TicketsSettings).tickets_topic_name == "wins"


def test_an_empty_value_means_the_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETS_SPARK_MEMORY", "")
    monkeypatch.setenv("SPARK_MEMORY", "3g")
    assert load(TicketsSettings).tickets_spark_memory == "3g"


def test_settings_of_other_programs_with_these_names_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENVIRONMENT", "LOG_LEVEL", "OUTPUT_FORMAT", "SPARK_MEMORY"):
        monkeypatch.setenv(name, "of another program")
    load(TicketsSettings)


def test_the_broker_is_the_stacks_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    assert load(TicketsSettings).tickets_broker == "kafka:9092"
    monkeypatch.setenv("REDPANDA_BROKER_LOCAL", "redpanda:9092")
    settings = load(TicketsSettings)
    assert (settings.tickets_broker, settings.bootstrap_servers) == ("redpanda:9092", "kafka:9092")
