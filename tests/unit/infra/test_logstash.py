"""The stand-in for Logstash: each plugin, option and condition, and errors for what it does not know."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, strategies

from infra.local.services.logstash.__main__ import make_event
from infra.local.services.logstash.pipeline import Compiled, read_pipeline, read_pipelines
from jobs.errors import ConfigurationError
from jobs.settings import ROOT
from jobs.shop.log_ledger import parse_line
from tests.testkit.logs import log_line

INPUT = 'input { file { path => "/a" sincedb_path => "/b" start_position => "beginning" } }'
OUTPUT = """output {
  elasticsearch {
    hosts => ["http://127.0.0.1:9"] user => "u" password => "p" index => "i-%{+YYYY.MM.dd}" document_id => "%{id}"
    action => "create" data_stream => "false" ilm_enabled => "false" manage_template => "false"
  }
}"""


@pytest.fixture(autouse=True, scope="module")
def _password() -> Iterator[None]:
    with patch.dict(os.environ, {"ELASTICSEARCH_LOGSTASH_PASSWORD": "secret"}):
        yield


def compiled(folder: Path, filters: str = "", inputs: str = INPUT, outputs: str = OUTPUT) -> Compiled:
    file = folder / "test.conf"
    file.write_text(f"{inputs}\nfilter {{ {filters} }}\n{outputs}")
    return read_pipeline(file)


def run(folder: Path, filters: str, **event: Any) -> dict[str, Any]:
    """The event after the filters."""
    compiled(folder, filters).filter(event)
    return event


# --- Plugins --------------------------------------------------------------------------------------


def test_mutate_renames_replaces_copies_adds_and_removes_in_this_order(tmp_path: Path) -> None:
    filters = """mutate {
        remove_field => ["gone", "[x][gone]", "[missing][y]"]
        add_field => { "added" => "%{[x][new]} %{missing} %{number}" }
        copy => { "[x][new]" => "copied" }
        gsub => ["[x][new]", "^ab*", "A"]
        rename => { "old" => "[x][new]" "[missing]" => "never" }
    }"""
    event = run(tmp_path, filters, old="abbc", gone=1, x={"gone": 2}, number=3)
    assert event == {"x": {"new": "Ac"}, "copied": "Ac", "added": "Ac %{missing} 3", "number": 3}


def test_truncate_keeps_whole_characters(tmp_path: Path) -> None:
    assert run(tmp_path, 'truncate { fields => ["a"] length_bytes => 4 }', a="aéééé") == {"a": "aé"}


def test_a_fingerprint_is_the_digest_of_the_text(tmp_path: Path) -> None:
    event = run(tmp_path, 'fingerprint { source => ["a"] target => "[@metadata][id]" method => "SHA256" }', a="abc")
    assert event["@metadata"]["id"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", ['{"a": 1', "", "NaN", '{"a": Infinity}', '{"a": 1e999}', "[" * 100_000, '"\\ud800"'])
def test_invalid_json_is_tagged(tmp_path: Path, text: str) -> None:
    assert run(tmp_path, 'json { source => "a" target => "b" }', a=text) == {"a": text, "tags": ["_jsonparsefailure"]}


def test_json_is_parsed_into_the_target(tmp_path: Path) -> None:
    assert run(tmp_path, 'json { source => "a" target => "[b][c]" }', a='{"d": [1]}')["b"] == {"c": {"d": [1]}}


def test_dates_are_in_utc(tmp_path: Path) -> None:
    filters = 'date { match => ["[a][t]", "ISO8601"] target => "@timestamp" }'
    event = run(tmp_path, filters, a={"t": "2026-01-05T01:30:00.5+02:00"})
    assert event["@timestamp"] == datetime(2026, 1, 4, 23, 30, 0, 500_000, tzinfo=UTC)
    assert run(tmp_path, filters, a={"t": "2026-02-30T00:00:00Z"})["tags"] == ["_dateparsefailure"]


def test_an_event_goes_to_the_index_of_its_day(tmp_path: Path) -> None:
    event: dict[str, Any] = {"id": "7", "@timestamp": datetime(2026, 1, 4, tzinfo=UTC), "@metadata": {}}
    compiled(tmp_path).output(event)
    document = event["@metadata"]["document"]
    assert (document.index, document.id) == ("i-2026.01.04", "7")


# --- Conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "event", "holds"),
    [
        ("[a]", {"a": "x"}, True),
        ("[a]", {"a": ""}, False),
        ("[a]", {"a": False}, False),
        ("[a]", {"a": "false"}, False),
        ("[a][b]", {"a": "x"}, False),
        ("[a][b]", {"a": {"b": 0}}, True),
        ("[a] == [b]", {"a": "x", "b": "x"}, True),
        ("[a] == [b]", {"a": "x", "b": "y"}, False),
        (r"[a] =~ /\A\d+\z/", {"a": "12"}, True),
        (r"[a] =~ /\A\d+\z/", {"a": "12\n"}, False),
        (r"[a] =~ /^\d+$/", {"a": "x\n12\ny"}, True),
        (r"[a] =~ /\d/", {"a": "٣"}, False),
        (r"[a] =~ /./", {"a": 12}, False),
        (r"[a] =~ /./", {"a": {"b": "c"}}, False),
        (r"[a] =~ /./", {}, False),
    ],
)
def test_conditions_are_those_of_logstash(tmp_path: Path, condition: str, event: dict[str, Any], holds: bool) -> None:
    filters = f'if {condition} {{ mutate {{ add_field => {{ "holds" => "yes" }} }} }}'
    assert ("holds" in run(tmp_path, filters, **event)) == holds


def test_the_first_branch_whose_condition_holds_runs(tmp_path: Path) -> None:
    def add(value: str) -> str:
        return f'mutate {{ add_field => {{ "r" => "{value}" }} }}'

    filters = f"if [a] {{ {add('a')} if [b] {{ {add('ab')} }} }} else if [b] {{ {add('b')} }} else {{ {add('c')} }}"
    results = [run(tmp_path, filters, **event)["r"] for event in ({"a": 1}, {"a": 1, "b": 1}, {"b": 1}, {})]
    assert results == ["a", "ab", "b", "c"]


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "fault"),
    [
        ("mutate {", "Expected"),
        ('grok { match => { "a" => "b" } }', "no filter plugin 'grok', only mutate, "),
        ('mutate { uppercase => ["a"] }', "unknown field `uppercase`"),
        ('mutate { rename => ["a"] }', "Expected `object`, got `array`"),
        ('truncate { fields => ["a"] }', "missing required field `length_bytes`"),
        ('fingerprint { source => ["a"] target => "b" method => "MD5" }', "Invalid enum value 'MD5'"),
        ('mutate { add_field => { "a" => "${NOT_SET}" } }', "the variable NOT_SET is not set"),
        ('if [a] and [b] { mutate { remove_field => ["a"] } }', "does not know the condition"),
        ('if [a] > 3 { mutate { remove_field => ["a"] } }', "does not know the condition"),
        ('if "x" in [tags] { mutate { remove_field => ["a"] } }', "does not know the condition"),
    ],
)
def test_what_the_stand_in_does_not_know_is_an_error_with_the_file(tmp_path: Path, filters: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        compiled(tmp_path, filters)
    assert str(tmp_path / "test.conf") in str(raised.value)
    assert fault in str(raised.value)


def test_other_actions_data_streams_and_inputs_are_errors(tmp_path: Path) -> None:
    for old, new in (("create", "index"), ('data_stream => "false"', 'data_stream => "true"')):
        with pytest.raises(ConfigurationError, match="output plugin elasticsearch"):
            compiled(tmp_path, outputs=OUTPUT.replace(old, new))
    with pytest.raises(ConfigurationError, match="no input plugin 'beats'"):
        compiled(tmp_path, inputs="input { beats { port => 5044 } }")
    with pytest.raises(ConfigurationError, match="one input"):
        compiled(tmp_path, inputs=INPUT.replace("file {", "file {} file {", 1))


def test_variables_have_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = INPUT.replace("/a", "${LOGSTASH_LOGS:/usr/share/logstash/logs}/app.log*")
    monkeypatch.delenv("LOGSTASH_LOGS", raising=False)
    assert compiled(tmp_path, inputs=inputs).input.path == "/usr/share/logstash/logs/app.log*"
    monkeypatch.setenv("LOGSTASH_LOGS", "/here")
    assert compiled(tmp_path, inputs=inputs).input.path == "/here/app.log*"


# --- The pipelines --------------------------------------------------------------------------------

LINES = [
    json.dumps(log_line()),
    json.dumps(log_line(log_id="")),
    json.dumps(log_line(log_id=5)),
    json.dumps(log_line(log_id="a" * 129)),
    json.dumps(log_line(log_id="a\nb")),
    json.dumps(log_line(timestamp="2026-01-05T00:30:00+02:00")),
]


@pytest.mark.parametrize("line", LINES)
def test_the_ledger_looks_for_a_line_where_the_pipeline_puts_it(line: str) -> None:
    pipeline, _ = pipelines()
    event: dict[str, Any] = {"@metadata": {}, "@timestamp": datetime.now(UTC), "message": line}
    pipeline.filter(event)
    pipeline.output(event)
    document, parsed = event["@metadata"]["document"], parse_line(line.encode(), is_passed=True)
    assert (document.index, document.id) == (parsed.index, parsed.id)


@pytest.mark.parametrize(
    ("status", "time", "failed", "slow"),
    [
        (200, 450, "0", "0"),
        (500, 451, "1", "1"),
        (500, 450.5, "1", "1"),
        (500, 450.0, "1", "0"),
        (404, 1_000, "0", "1"),
        ("OK", "long", None, None),
        (None, 5.5, None, "0"),
    ],
)
def test_shares_are_averages_of_zero_and_one(status: Any, time: Any, failed: str | None, slow: str | None) -> None:
    pipeline, _ = pipelines()
    line = json.dumps(log_line(status_code=status, response_time=time))
    event: dict[str, Any] = {"@metadata": {}, "@timestamp": datetime.now(UTC), "message": line}
    pipeline.filter(event)
    assert (event.get("http", {}).get("failed"), event.get("http", {}).get("slow")) == (failed, slow)


@cache
def pipelines() -> list[Compiled]:
    return read_pipelines(ROOT / "infra" / "logstash")


VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("log_id", "timestamp", "level", "message", "response_time", "status_code", "host", "tags", "@timestamp", "[a]")


@given(strategies.dictionaries(strategies.sampled_from(NAMES), VALUES), strategies.text())
def test_no_line_stops_the_pipelines(changes: dict[str, Any], text: str) -> None:
    app_logs, rejected = pipelines()
    for line in (json.dumps(log_line() | changes), json.dumps(changes), text):
        for pipeline in (app_logs, rejected):
            event = make_event(Path("/app.log"), line.encode(errors="surrogatepass") + b"\n")
            if pipeline is rejected:
                event |= {"event": {"original": event["message"]}}
                event["@metadata"] = {"dead_letter_queue": {"reason": "status: 400, response: {}"}}
            pipeline.filter(event)
            pipeline.output(event)
            document = event.pop("@metadata")["document"]
            assert re.fullmatch(r"(app-logs-20\d\d\.\d\d\.\d\d|rejected-app-logs)", document.index)
            assert 0 < len(document.id) <= 128, "Elasticsearch refuses the whole request otherwise"
            assert ("error" in event) == (document.index == "rejected-app-logs")
