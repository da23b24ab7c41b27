"""Objects, dead letters and results that other programs wrote beside ours."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.local.environment import export_settings
from jobs import __main__ as command_line
from jobs.errors import ConfigurationError
from jobs.rides.transform import SINK_SCHEMA
from jobs.sinks.parquet import delete_rows, holds_objects
from jobs.zones import playbook
from jobs.zones import run as work
from jobs.zones.local import LocalEngine
from tests.testkit.flow import Pipeline
from tests.testkit.kafka import Raw, produce
from tests.testkit.rides import encode, keyed, result, ride

Run = Callable[..., tuple[int, str, str]]

# Clears the screen, reverses the direction of text, closes markup, breaks the line.
NASTY = "\x1b[2J\u202e[/bold][/]\r\n\x9b31m\u2066[link=x]"
NASTY_SHOWN = r"\x1b[2J\u202e[/bold][/]\r\n\x9b31m\u2066[link=x]"


@pytest.fixture
def run(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the topics, index and prefix of the pipeline; returns exit code, stdout and stderr."""
    monkeypatch.setattr(command_line, "adopt_proxies", lambda: None)  # it would change the environment of all tests
    for name, value in export_settings(pipeline.settings).items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jobs", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return call


def price_one_ride(pipeline: Pipeline) -> str:
    """Send a ride through both flows; returns its id."""
    content = ride()
    produce(pipeline.stack.kafka, pipeline.pricing.source, [keyed(content)])
    pipeline.run()
    return str(content["ride_id"])


def upload(pipeline: Pipeline, name: str, content: bytes) -> str:
    """Upload an object below the prefix; returns its URI."""
    path = pipeline.exporting.prefix + name
    pipeline.stack.gcs.bucket(pipeline.exporting.bucket).blob(path).upload_from_string(content)
    return f"gs://{pipeline.exporting.bucket}/{path}"


# --- Objects --------------------------------------------------------------------------------------


def test_objects_with_other_names_are_ignored(pipeline: Pipeline, run: Run) -> None:
    for name in ("_SUCCESS", "notes.txt", "rides.parquet.crc"):
        upload(pipeline, f"2026/01/05/08/{name}", b"")
    assert not holds_objects(pipeline.stack.gcs, pipeline.exporting.bucket, pipeline.exporting.prefix)
    ride_id = price_one_ride(pipeline)
    assert run("ledger")[0] == 0
    code, printed, _ = run("trace", ride_id)
    assert (code, printed.count("Parquet  object gs://")) == (0, 1)
    assert run("reindex")[0] == 0


def make_foreign_table() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"ride_id": ["a"], "kafka_offset": ["a text"]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("zero-byte", "is not a Parquet file"),
        ("truncated", "is not a Parquet file"),
        ("foreign", "has other columns than this pipeline writes"),
    ],
)
def test_a_foreign_object_is_reported_by_every_command(pipeline: Pipeline, run: Run, kind: str, fault: str) -> None:
    ride_id = price_one_ride(pipeline)
    whole = next(iter(pipeline.exporting.objects().values()))
    content = {"zero-byte": b"", "truncated": whole[:-20], "foreign": make_foreign_table()}[kind]
    uri = upload(pipeline, "2026/01/05/08/theirs.parquet", content)
    traces = ("trace", ride_id), ("trace", ride_id, "--json")
    for arguments in [("ledger",), ("ledger", "--json"), *traces, ("reindex",), ("bqml", "--no-scan")]:
        code, printed, errors = run(*arguments)
        assert code == 3, arguments
        assert f"error: {uri} {fault}" in errors
        assert "Move it to another prefix, or delete it." in errors
        assert "Traceback" not in errors
        assert "--json" not in arguments or printed == ""
    blob = pipeline.stack.gcs.bucket(pipeline.exporting.bucket).blob(uri.partition(f"{pipeline.exporting.bucket}/")[2])
    with pytest.raises(ConfigurationError, match=f"{uri} {fault}"):  # what a reprocessing does
        delete_rows(blob, SINK_SCHEMA, (), lambda rows: np.zeros(len(rows), dtype=bool))


def test_a_truncated_object_of_ours_has_another_remedy(pipeline: Pipeline, run: Run) -> None:
    price_one_ride(pipeline)
    ((name, content),) = pipeline.exporting.objects().items()
    uri = upload(pipeline, name.removeprefix(pipeline.exporting.prefix), content[:-20])
    code, _, errors = run("ledger")
    assert code == 3
    assert uri in errors
    assert "restore it, or rebuild the sinks" in errors


@pytest.mark.parametrize("column", ["ride_id", "price_total"])
def test_an_object_with_damaged_rows_is_reported_by_name(pipeline: Pipeline, column: str) -> None:
    price_one_ride(pipeline)
    ((name, content),) = pipeline.exporting.objects().items()
    row_group = pq.read_metadata(io.BytesIO(content)).row_group(0)
    start = row_group.column(SINK_SCHEMA.get_field_index(column)).data_page_offset
    damaged = content[:start] + b"\xff" * 30 + content[start + 30 :]
    uri = upload(pipeline, name.removeprefix(pipeline.exporting.prefix), damaged)
    values = playbook.build_parameters(pipeline.settings)
    with LocalEngine(pipeline.stack.gcs) as engine, pytest.raises(ConfigurationError, match=uri):
        work.run(engine, playbook.read_steps("dataset", "setup"), values, lambda *_: None)


# --- Messages -------------------------------------------------------------------------------------


def make_nasty_dead_letters(pipeline: Pipeline, value: bytes) -> list[Raw]:
    """Make dead letters that claim to be of this pipeline, with headers that it would not write."""
    prefix = "__connect.errors."
    headers = [
        (f"{prefix}topic", pipeline.pricing.source.encode()),
        (f"{prefix}connector.name", b"dag_compute_cost"),
        (f"{prefix}exception.class.name", NASTY.encode()),
        (f"{prefix}exception.message", NASTY.encode() + b"\xff"),
        (NASTY, NASTY.encode()),
    ]
    positions = [("٣", "²"), ("9" * 5_000, "9" * 5_000), ("0", str(2**63)), (NASTY, NASTY), ("-1", "-1")]
    return [
        Raw(value, b"\x1b[2J", [*headers, (f"{prefix}partition", first.encode()), (f"{prefix}offset", second.encode())])
        for first, second in positions
    ]


def test_dead_letters_of_others_are_shown_escaped(pipeline: Pipeline, run: Run) -> None:
    ride_id = price_one_ride(pipeline)
    value = json.dumps({"ride_id": ride_id, "note": NASTY}, ensure_ascii=False).encode()
    produce(pipeline.stack.kafka, pipeline.pricing.dlq, make_nasty_dead_letters(pipeline, value))
    for arguments in (("dlq",), ("trace", ride_id)):
        code, printed, _ = run(*arguments)
        assert code == 0
        assert printed.replace("\n", "").isprintable(), arguments
        assert printed.count(NASTY_SHOWN) >= 5
    letters = json.loads(run("dlq", "--json")[1])["dead_letters"]
    assert {(letter["reason"], letter["message"]) for letter in letters} == {(NASTY, f"{NASTY}\ufffd")}
    assert [letter["source"]["offset"] for letter in letters] == [None] * 5
    sightings = json.loads(run("trace", ride_id, "--json")[1])["sightings"]
    contents = [sighting["content"] for sighting in sightings if sighting["place"] == pipeline.pricing.dlq]
    assert contents == [value.decode()] * 5

    code, printed, _ = run("ledger")
    assert code == 1
    assert printed.replace("\n", "").isprintable()
    assert f"dlq by reason: {NASTY_SHOWN} 5" in printed
    assert "breaks its schema" in printed
    assert run("dlq-replay", "--dry-run")[0] == 0
    assert run("reprocess", "2025-01-01", "2025-01-02", "--yes")[0] == 0


def test_results_of_others_do_not_stop_a_trace(pipeline: Pipeline, run: Run) -> None:
    content = result()
    times = ([1, 2], {"a": 1}, "../../etc", "", 7, None)
    foreign = [encode(content | {"ts": ts}) for ts in times]
    foreign.append(encode(content | {"deep": 0}).replace(b'"deep": 0', b'"deep": ' + b"[" * 100_000 + b"]" * 100_000))
    produce(pipeline.stack.kafka, pipeline.pricing.result, [Raw(value, b"k") for value in foreign])
    code, printed, _ = run("trace", content["ride_id"])
    assert code == 0
    assert printed.count(f"{pipeline.pricing.result}  partition") == len(foreign)
