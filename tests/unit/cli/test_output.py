"""What commands print: whole at 80 and 60 columns and piped, and the same figures with --json. No service runs."""

from __future__ import annotations

import io
import json
import math
import pkgutil
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Message
from typer.testing import CliRunner

from jobs import __main__ as command_line
from jobs.airflow_api import LastRun
from jobs.cli import app as shared
from jobs.cli import dead_letters, flow, ledger, observability, rides, shop, stack, zones
from jobs.kafka import replay, topics
from jobs.kafka.lag import Lag
from jobs.kafka.offsets import Committed, HeldBack
from jobs.kafka.set_offsets import Move
from jobs.observability.status import (
    Alert,
    DagState,
    DeadLetterState,
    GroupState,
    Held,
    LedgerState,
    Part,
    Status,
    WarehouseState,
)
from jobs.rides.ops import trace
from jobs.rides.ops.ledger import Ledger
from jobs.rides.zones import Revenue, Zone, Zones
from jobs.shop.predictions import Day, Forecast, Score
from jobs.terminal import make_console
from jobs.tracing import LogLine, Sighting
from jobs.verticals import find_verticals
from jobs.zones import playbook
from jobs.zones import run as zones_run
from jobs.zones.engine import Answer
from jobs.zones.show import Printer

Run = Callable[..., str]

RIDE_ID = "3ab50c89-c2aa-47c1-93bb-38724358967e"
# Clears the screen, reverses the direction of text, looks like markup, breaks the line, starts a control sequence.
NASTY = "\x1b[2J\u202e[red]\n\x9b"
NASTY_SHOWN = r"\x1b[2J\u202e[red]\n\x9b"
BIG = 15_951_749_123
HELD = HeldBack("rides_raw", 5, BIG, 1_234_567)

at_every_width = pytest.mark.parametrize("columns", [80, 60, None], ids=["80 columns", "60 columns", "piped"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command on a terminal of that many columns, or piped; returns its stdout without colours."""
    monkeypatch.setenv("DATASTREAM_STATE", str(tmp_path))

    def call(*arguments: str, columns: int | None = None, exit_code: int = 0) -> str:
        with monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm-256color")
            patch.setenv("COLUMNS", str(columns or 40))
            patch.setattr(sys, "stdout", Terminal() if columns else io.StringIO())
            console = make_console()
            for module in (shared, dead_letters, flow, ledger, observability, rides, shop, stack, zones):
                patch.setattr(module, "console", console)
            done = CliRunner().invoke(command_line.app, arguments)
        assert done.exit_code == exit_code, (done.output, done.exception)
        text = re.sub(r"\x1b\[[\d;]*m", "", done.stdout) if columns else done.stdout
        assert text.replace("\n", "").isprintable()
        framed = [line for line in text.splitlines() if re.search("[│┃━─]", line)]
        assert columns is None or all(len(line) <= columns for line in framed)
        return text

    return call


def test_all_commands_use_one_console() -> None:
    modules = (dead_letters, flow, ledger, observability, rides, shop, stack, zones)
    assert all(module.console is shared.console for module in modules)


# --- ledger ---------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    result = Ledger(
        raw=BIG, result=BIG - 22, duplicates=17, dlq=22, dlq_by_reason={"invalid_json": 22}, foreign=0,
        refused=1_234_567, replayed=0, reprocessed=0, superseded=0, pending=0, in_flight=0, is_reprocessing=False,
        to_purge=0, elasticsearch=BIG - 39, parquet=BIG - 22, balanced=False, faults=[f"a fault of {NASTY}"],
        sample_result={"ride_id": RIDE_ID, "price_total": 19.137674602051717}, sample_dead_letter={"key": NASTY},
    )  # fmt: skip
    monkeypatch.setattr(pkgutil, "resolve_name", lambda _: lambda systems: result)
    return result


@at_every_width
def test_the_ledger_shows_whole_figures(run: Run, counted: Ledger, columns: int | None) -> None:
    text = run("ledger", columns=columns, exit_code=1)
    for figure in counted.figures:
        assert re.search(rf"│ {figure.name} +│ +{figure.count:,} │ {figure.system}", text)
    assert f"✗ a fault of {NASTY_SHOWN}\n" in text
    assert '"price_total":19.137674602051717}' in text


def test_the_ledger_as_json_is_the_written_file(run: Run, counted: Ledger, tmp_path: Path) -> None:
    printed = json.loads(run("ledger", "--json", exit_code=1))
    assert printed == json.loads((tmp_path / "ledger.json").read_text())
    assert (printed["raw"], printed["elasticsearch"], printed["balanced"]) == (BIG, BIG - 39, False)
    assert printed["sample_result"]["price_total"] == 19.137674602051717
    assert printed["sample_dead_letter"] == {"key": NASTY}


# --- lag ------------------------------------------------------------------------------------------


@pytest.fixture
def lagging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.kafka.lag.read_lag", lambda *arguments, **options: Lag(BIG, [HELD]))


@pytest.mark.usefixtures("lagging")
@at_every_width
def test_lag_shows_whole_figures(run: Run, columns: int | None) -> None:
    text = " ".join(run("lag", "--once", columns=columns).split())
    for group in ("dag_compute_cost", "dag_index_and_export", "dag_index_and_export.PutGCP"):
        assert re.search(rf"\b{group}\b.*rides_\w+.*{BIG:,}.*1,234,567", text)
    assert f"held back by an open transaction: rides_raw[5]: 1,234,567 offsets from {BIG} on" in text


@pytest.mark.usefixtures("lagging")
def test_lag_as_json_has_numbers(run: Run) -> None:
    groups = json.loads(run("lag", "--json"))["groups"]
    declared = [group.id for vertical in find_verticals() for group in (*vertical.groups, *vertical.streams)]
    assert [group["group"] for group in groups] == declared
    held = {"topic": "rides_raw", "partition": 5, "first": BIG, "count": 1_234_567}
    assert all((group["offsets"], group["held_back"]) == (BIG, [held]) for group in groups)


@pytest.mark.usefixtures("lagging")
def test_lag_of_a_vertical_has_only_its_groups(run: Run) -> None:
    groups = json.loads(run("lag", "tickets", "--json"))["groups"]
    assert [(group["group"], group["topic"]) for group in groups] == [("ticket_processor", "client_tickets")]


@pytest.mark.usefixtures("lagging")
def test_lag_leaves_out_verticals_on_another_broker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDPANDA_BROKER_LOCAL", "elsewhere:9092")
    groups = json.loads(run("lag", "--json"))["groups"]
    assert "dag_compute_cost" in [group["group"] for group in groups]
    assert "ticket_processor" not in [group["group"] for group in groups]


# --- status ---------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Status:
    run = LastRun("run", "failed", datetime.now(UTC).isoformat(), 4.5)
    group = "dag_index_and_export.PutGCP"
    status = Status(
        at="2026-01-05T08:00:00+00:00",
        parts=[
            Part("kafka", True, "exporter"),
            Part("elasticsearch", False, "exporter"),
            Part("airflow", True, "Prometheus"),
        ],
        groups=[GroupState(group, "rides_result", BIG, 90_000.0), GroupState("ticket_processor", NASTY, None, None)],
        held_back=[Held("rides_result", 1_234_567)],
        dags=[DagState("dag_index_and_export", False, run, 300.0), DagState("dag_zones_score", True, None, math.inf)],
        dead_letters=[DeadLetterState("rides", "rides_dlq", BIG, {"invalid_json": 90, NASTY: 2})],
        ledgers=[LedgerState("rides", "lost_or_doubled", 480.0, 7, 0, 1)],
        warehouse=WarehouseState(row_age_s=30.0, backup_age_s=None, failed_tests=2),
        alerts=[Alert("LagGrowing", "firing", "warning", f"The lag {NASTY} grows", "docs/x.md#laggrowing", "")],
        notes=[f"Airflow said {NASTY}"],
    )
    monkeypatch.setattr("jobs.observability.status.read_status", lambda settings: status)
    return status


@pytest.mark.usefixtures("watched")
@at_every_width
def test_the_status_is_shown_whole_and_escaped(run: Run, columns: int | None) -> None:
    text = " ".join(run("status", columns=columns).replace("│", " ").split())
    assert f"✗ firing LagGrowing (warning): The lag {NASTY_SHOWN} grows. docs/x.md#laggrowing" in text
    assert "exporter: kafka ✓, elasticsearch ✗ down" in text
    assert "Prometheus: airflow ✓" in text
    for word in (f"{BIG:,}", "25", "1,234,567", "4.5", "≤", "∞", "invalid_json", "dag_index_and_export.PutGCP"):
        assert word in text
    assert f"Airflow said {NASTY_SHOWN}" in text
    assert "warehouse: newest row 30 s old, 2 failed tests of dbt, no backup yet" in text


@pytest.mark.usefixtures("watched")
def test_the_status_as_json(run: Run) -> None:
    document = json.loads(run("status", "--json"))
    assert document["parts"][1] == {"name": "elasticsearch", "is_up": False, "seen_by": "exporter"}
    assert document["groups"][1] == {"group": "ticket_processor", "topic": NASTY, "offsets": None, "age_s": None}
    assert [dag["fresh_within_s"] for dag in document["dags"]] == [300, None]
    assert document["ledgers"][0]["verdict"] == "lost_or_doubled"
    assert document["warehouse"] == {"row_age_s": 30, "backup_age_s": None, "failed_tests": 2}


# --- forecast -------------------------------------------------------------------------------------


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> Forecast:
    until, trained_at = date(2026, 6, 30), datetime(2026, 7, 1, tzinfo=UTC)
    amounts = [Decimal(f"{BIG}.{cents}") for cents in (50, 25, 75, 99)]
    days = tuple(Day(until + timedelta(days=ahead), *amounts, until, trained_at) for ahead in range(1, 8))
    forecast = Forecast(days, Score(196, 34, 2.0 * BIG, 0.9 * BIG, 1.0 * BIG))
    monkeypatch.setattr("jobs.shop.forecast.forecast_revenue", lambda settings: forecast)
    return forecast


@pytest.mark.usefixtures("predicted")
@at_every_width
def test_the_forecast_shows_whole_figures(run: Run, columns: int | None) -> None:
    text = " ".join(run("shop", "forecast", columns=columns).replace("│", " ").split())
    for cents in (50, 25, 75, 99):
        assert len(re.findall(rf"\b{BIG:,}\.{cents}\b", text)) == 7
    assert "Wed 2026-07-01" in text
    assert "of 196 forecasts for the last 34 days: model 14,356,574,210.70 (45.0% of the revenue)" in text
    assert "The model beats the same weekday of the week before by 10.0%." in text


@pytest.mark.usefixtures("predicted")
def test_the_forecast_as_json(run: Run) -> None:
    document = json.loads(run("shop", "forecast", "--json"))
    assert document["is_better"] is True
    assert document["score"]["model_error"] == 0.9 * BIG
    assert [day["day"] for day in document["days"]] == [f"2026-07-0{number}" for number in range(1, 8)]
    assert document["days"][0]["predicted"] == f"{BIG}.50"


# --- dlq ------------------------------------------------------------------------------------------


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(position: int, value: bytes | None, **texts: str) -> Message:
        headers = [(f"__connect.errors.{name.replace('_', '.')}", text.encode()) for name, text in texts.items()]
        headers += [("datastream.replayed", b"2"), (NASTY, None)]
        return Message(topic="rides_dlq", partition=5, offset=position, timestamp=(1, 1_795_903_816_738), key=b"\xff",
                       value=value, headers=headers)  # fmt: skip

    ours = {"topic": "rides_raw", "partition": "5", "offset": str(BIG), "exception_class_name": "invalid_json"}
    messages = [
        build(3, f'{{"note": "{NASTY}"}}'.encode() + b"\xff", **ours, exception_message=f"bad {NASTY}"),
        build(4, None, topic="theirs", partition="x", exception_class_name="Error"),
    ]
    monkeypatch.setattr(replay, "read_latest", lambda config, topic, count: messages[:count])


@pytest.mark.usefixtures("dead")
@at_every_width
def test_dead_letters_are_shown_whole_and_escaped(run: Run, columns: int | None) -> None:
    assert run("dlq", columns=columns).splitlines() == [
        f"rides_raw[5]@{BIG}  invalid_json  replayed 2×",
        f"  message: bad {NASTY_SHOWN}",
        rf'  value: {{"note": "{NASTY_SHOWN}"}}\xff',
        "theirs[x]@  Error  replayed 2×",
        "  message: ",
        "  value: null",
    ]


@pytest.mark.usefixtures("dead")
def test_dead_letters_as_json(run: Run) -> None:
    document = json.loads(run("dlq", "--json"))
    first, second = document["dead_letters"]
    assert document["topic"] == "rides_dlq"
    assert (first["partition"], first["offset"], first["timestamp_ms"]) == (5, 3, 1_795_903_816_738)
    assert first["source"] == {"topic": "rides_raw", "partition": 5, "offset": BIG}
    assert (first["reason"], first["message"], first["replayed"]) == ("invalid_json", f"bad {NASTY}", 2)
    assert first["key"] == {"base64": "/w=="}
    assert list(first["value"]) == ["base64"]
    assert first["headers"][-2:] == [["datastream.replayed", "2"], [NASTY, None]]
    assert (second["source"], second["value"]) == ({"topic": "theirs", "partition": None, "offset": None}, None)


# --- trace ----------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"ride_id": RIDE_ID, "price_total": 19.137674602051717, "origin": {"lat": 40.773993, "lon": -73.875437}}
    sightings = [
        Sighting("rides_raw", {"partition": 5, "offset": BIG}, json.dumps(document).encode()),
        Sighting("rides_dlq", {"partition": 5, "offset": 3}, NASTY.encode(), f"invalid_json: {NASTY}"),
        Sighting("Elasticsearch rides", {"_id": RIDE_ID, "version": BIG}, document),
        Sighting("Parquet", {"object": f"gs://datastream/{80 * 'x'}.parquet"}, document),
    ]
    monkeypatch.setattr(trace, "trace", lambda systems, ride_id: iter(sightings if ride_id == RIDE_ID else ()))
    line = LogLine("2026-11-29T14:19:37.004Z", "error", "dag_compute_cost", "manual__1", "ConsumeKafka", NASTY)
    monkeypatch.setattr("jobs.tracing.find_log_lines", lambda *_: [line])


@pytest.mark.usefixtures("seen")
@at_every_width
def test_a_trace_is_shown_whole_and_escaped(run: Run, columns: int | None) -> None:
    text = run("trace", RIDE_ID.upper(), columns=columns)
    assert f"rides_raw  partition 5, offset {BIG}\n" in text
    assert f"rides_dlq  partition 5, offset 3\n  invalid_json: {NASTY_SHOWN}\n  {NASTY_SHOWN}\n" in text
    assert f"Elasticsearch rides  _id {RIDE_ID}, version {BIG}\n" in text
    assert f"Parquet  object gs://datastream/{80 * 'x'}.parquet\n" in text
    assert text.count(f'"ride_id":"{RIDE_ID}","price_total":19.137674602051717') == 2
    assert f"log  dag_compute_cost, run manual__1\n  14:19:37.004 error   ConsumeKafka: {NASTY_SHOWN}\n" in text


@pytest.mark.usefixtures("seen")
def test_a_trace_as_json(run: Run) -> None:
    document = json.loads(run("trace", RIDE_ID, "--json"))
    raw, dead_letter, indexed, exported = document["sightings"]
    assert document["ride_id"] == RIDE_ID
    assert raw["position"] == {"partition": 5, "offset": BIG}
    assert dead_letter["content"] == NASTY
    assert dead_letter["error"] == f"invalid_json: {NASTY}"
    assert indexed["content"] == exported["content"] == json.loads(raw["content"])
    assert indexed["content"]["price_total"] == 19.137674602051717
    assert document["log"][0]["text"] == NASTY


@pytest.mark.usefixtures("seen")
def test_a_ride_that_is_nowhere_exits_with_1(run: Run) -> None:
    assert run("trace", "other", exit_code=1) == ""
    assert json.loads(run("trace", "other", "--json", exit_code=1)) == {"ride_id": "other", "sightings": [], "log": []}


# --- bqml -----------------------------------------------------------------------------------------


REVENUE = {"low": 15_951_749.25, "medium": 9_000_000.5, "high": 1_234_567.75}
LABEL = "John F. Kennedy Airport"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Zones:
    result = Zones(
        generated_at="2026-11-28T22:00:00+00:00",
        engine="a fake engine",
        reference="a fake file",
        zones=[Zone(2, LABEL, -73.7886, 40.6459, 247, 2.3981)],
        revenue=[Revenue(2, LABEL, comfort, amount, BIG, 7) for comfort, amount in REVENUE.items()],
        sample=[(-73.7886, 40.6459, 2)],
    )

    def answer(engine: object, steps: object, values: object, printer: Printer) -> dict[str, Any]:
        (step,) = (step for step in playbook.read_steps("look") if step.name == "26_cluster_sizes")
        names = ("centroid_id", "label", "latitude", "longitude", "reference_points", "share", "revenue_outside")
        printer(step, "", Answer(1, names, ((2, LABEL, 40.6459, -73.7886, 1_234_567, 0.25, 15_951_749.25),)))
        return {}

    monkeypatch.setattr(zones, "make_storage_client", lambda settings: None)
    monkeypatch.setattr(zones, "write_report_page", lambda console: console.print("Wrote the page"))
    monkeypatch.setattr(zones_run, "open_engine", lambda *_: nullcontext(SimpleNamespace(title="a fake engine")))
    monkeypatch.setattr(zones_run, "prepare", lambda *_: "a fake file")
    monkeypatch.setattr(zones_run, "run", answer)
    monkeypatch.setattr(zones_run, "collect", lambda *_: result)
    return result


@pytest.mark.usefixtures("scored")
@at_every_width
def test_revenue_is_shown_whole(run: Run, columns: int | None) -> None:
    text = run("bqml", columns=columns)
    assert re.search(rf"│ {LABEL} +│ +26,186,317\.50 │ +47,855,247,369 │", text)
    for comfort, amount in REVENUE.items():
        assert len(re.findall(rf"│   {comfort} +│ +{amount:,.2f} │ +{BIG:,} │", text)) == 2
    assert re.search(r"│ all zones +│ +26,186,317\.50 │ +47,855,247,369 │", text)
    cells = ("2", LABEL, "40.6459", "-73.7886", "1,234,567", "0.2500", "15,951,749.25")
    assert re.search(".*".join(map(re.escape, cells)), text.replace("\n", " "))


def test_revenue_as_json_is_the_written_file(run: Run, scored: Zones, tmp_path: Path) -> None:
    document = json.loads(run("bqml", "--json"))
    assert document == json.loads((tmp_path / "zones.json").read_text())
    assert {part["comfort"]: part["revenue"] for part in document["revenue"]} == REVENUE


@pytest.mark.parametrize("option", ["--dry-run", "--teardown"])
def test_a_run_without_a_result_has_no_json(run: Run, option: str) -> None:
    assert run("bqml", "--json", option, exit_code=2) == ""


# --- other commands -------------------------------------------------------------------------------


@at_every_width
def test_topics_shows_whole_differences(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int | None) -> None:
    difference = topics.Difference("rides_raw", "retention.ms", "604800000", "1209600000")
    monkeypatch.setattr(topics, "apply", lambda config, declared: (["rides_dlq"], [difference]))
    text = run("topics", columns=columns)
    assert re.search(r"retention\.ms[ │\n]+is[ │\n]+604800000,[ │\n]+declared[ │\n]+1209600000", text)
    assert re.search(r"│ rides_dlq +│ +6 │ created", text)


@at_every_width
def test_where_shows_whole_addresses(run: Run, columns: int | None) -> None:
    text = run("where", columns=columns)
    assert "Elasticsearch  http://127.0.0.1:9200/rides/_search?size=1\n" in text
    assert "Stop           make local-down (keeps the data); make clean (deletes it)\n" in text


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_offsets_shows_whole_figures(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(sys, "stdout", stream := Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    moves = SimpleNamespace(
        topic="rides_result", group="dag_index_and_export", skipped=0, repeated=BIG, discarded_plans=0, is_certain=True,
        moves=[Move(5, BIG, Committed(0), 0, BIG)],
    )  # fmt: skip
    flow.print_moves(make_console(), moves)
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert str(BIG) in text
    assert text.count(f"{BIG:,}") == 2
