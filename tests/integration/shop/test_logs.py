"""The shop's log in a real Elasticsearch, shipped by the stand-in for Logstash."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from operator import ge, gt, lt
from pathlib import Path
from typing import Any

import pytest

import shop_logs
from infra.kibana.rules import read_rules
from infra.kibana.saved_objects import SavedObject, objects_folder, read
from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from jobs.clients import make_elasticsearch_admin
from jobs.shop.log_retention import delete_expired_indices
from jobs.shop.vertical import VERTICAL
from jobs.sinks.elasticsearch import set_up_index
from shop_logs import ApplicationLog
from tests.testkit.dashboard.queries import Rides, lens_layers
from tests.testkit.logs import TIME, Shipping, log_line
from tests.testkit.stack import guarded
from tests.testkit.wait import DEADLINE_S, until

pytestmark = pytest.mark.timeout(240)

OBJECTS = {(saved["type"], saved["id"]): saved for saved in read(objects_folder("shop"))}
KILL_AT_COMMIT = (
    "import os, signal",
    "from jobs.shop.log_files import Tail",
    "Tail.commit = lambda _: os.kill(os.getpid(), signal.SIGKILL)",
)


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """The settings of a real Elasticsearch."""
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["elasticsearch"])
        yield settings


@pytest.fixture
def shipping(running: Any, tmp_path: Path) -> Shipping:
    """No log files, no position, empty indices."""
    client = make_elasticsearch_admin(running)
    for name in client.indices.get(index="*app-logs*"):
        client.indices.delete(index=name)
    for setting, template in VERTICAL.templates.items():
        set_up_index(client, getattr(running, setting), template)
    return Shipping(running.model_copy(update={"datastream_state": tmp_path}), client)


def test_every_bad_line_has_one_place_and_a_reason(shipping: Shipping) -> None:
    valid, repeated = log_line(), log_line()
    with_host, long_id, no_id = log_line(host="a"), log_line(log_id="a\n" + "b" * 600), log_line(log_id="")
    valid_lines = [valid, repeated, repeated, with_host, long_id, no_id, log_line(extra={"": [1, {"a.b": None}]})]
    two_megabytes = log_line(message="m" * 2_000_000)
    bad: dict[str, str] = {
        "not JSON": "not_json",
        "": "not_json",
        '{"a": NaN}': "not_json",
        "[" * 5_000: "not_json",
        '{"log_id": "1"} x': "not_json",
        '\\xff{\\"a\\": 1}': "not_json",
        "[1, 2]": "not_an_object",
        "null": "not_an_object",
        "5": "not_an_object",
        json.dumps({"log_id": "1"}): "no_time",
        json.dumps(log_line(timestamp="")): "no_time",
        json.dumps(log_line(timestamp="2026-11-29T10:00:00")): "invalid_time",
        json.dumps(log_line(timestamp="2026-13-29T10:00:00Z")): "invalid_time",
        json.dumps(log_line(timestamp=1_764_000_000)): "invalid_time",
        json.dumps(two_megabytes)[:262_144]: "too_long",
        json.dumps(log_line(status_code="OK")): "refused",
        json.dumps(log_line(level={"name": "INFO"})): "refused",
        json.dumps(log_line(log_id={"a": 1})): "refused",
    }
    written: list[Any] = [*valid_lines, *(line for line, reason in bad.items() if reason != "too_long"), two_megabytes]
    written[written.index('\\xff{\\"a\\": 1}')] = b'\xff{"a": 1}'
    shipping.write(*written, "not JSON")
    logs = shipping.ship()

    rejections = shipping.rejections()
    assert {text: source["error"]["type"] for text, source in rejections.items()} == bad
    assert {source["log"]["file"]["path"] for source in rejections.values()} == {str(shipping.log)}
    (refused, *_) = [source["error"]["message"] for source in rejections.values() if source["error"].get("message")]
    assert refused.startswith('{"create"')
    assert "document_parsing_exception" in refused
    documents = shipping.documents()
    assert {source["event"]["original"] for source in documents.values()} == set(map(json.dumps, valid_lines))
    assert documents[with_host["log_id"]]["host"] == {"name": "a"}
    assert (logs.documents, logs.duplicates, logs.rejected_by_reason) == (6, 2, Counter(bad.values()))
    assert logs.lines == len(written) + 1 == logs.documents + logs.duplicates + logs.rejected
    assert (logs.pending, logs.lost, logs.doubled, logs.expired) == (0, 0, 0, 0)


def test_a_line_becomes_an_event_of_the_common_schema(shipping: Shipping) -> None:
    line = log_line(level="ERROR", status_code=503, response_time=460, extra=1)
    shipping.write(line)
    shipping.ship()
    (index,) = shipping.client.indices.get(index="app-logs-*")
    assert index == "app-logs-2026.11.29"
    document = shipping.documents()[line["log_id"]]
    assert datetime.fromisoformat(document["@timestamp"]) == datetime.fromisoformat(TIME)
    assert document["event"] == {"id": line["log_id"], "original": json.dumps(line)}
    assert document["log"] == {"level": "ERROR", "file": {"path": str(shipping.log)}}
    assert document["http"] == {
        "response": {"status_code": 503}, "response_time_ms": 460, "failed": "1", "slow": "1",
    }  # fmt: skip
    assert (document["message"], document["url"]) == (line["message"], {"path": "/api/orders"})
    assert document["app"] == {"extra": 1}


def test_rotated_truncated_and_unfinished_files(shipping: Shipping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop_logs, "_MAX_BYTES", 20_000)
    monkeypatch.setattr(shop_logs, "_KEPT_FILES", 100)
    log = ApplicationLog(shipping.log, 7, is_incident=False)
    for _ in range(300):  # rotated while the shipper is not running
        log.write()
    with shipping.running():
        for _ in range(500):  # and while it is
            log.write()
        log.close()
        shipping.wait()
        assert len(list(shipping.log.parent.iterdir())) > 5
        before = shipping.count()
        assert (before.lines, before.documents, before.lost) == (800, 800, 0)
        # The last line comes in two parts.
        line = log_line()
        with shipping.log.open("ab") as file:
            file.write(json.dumps(line).encode()[:50])
            file.flush()
            shipping.wait()
            file.write(json.dumps(line).encode()[50:] + b"\n")
        shipping.wait()
        assert line["log_id"] in shipping.documents()
        # The new content is longer than the old position.
        position = shipping.log.stat().st_size
        new = [log_line() for _ in range(position // 100)]
        shipping.log.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in new))
        assert shipping.log.stat().st_size > position
        shipping.wait()
    assert {line["log_id"] for line in new} <= shipping.documents().keys()
    assert len(shipping.documents()) == 800 + 1 + len(new)
    shipping.log.write_bytes(b"")
    shipping.write(last := log_line())
    shipping.ship()
    assert last["log_id"] in shipping.documents()


def test_a_kill_between_bulk_and_position_loses_and_doubles_nothing(shipping: Shipping) -> None:
    lines = [log_line() for _ in range(700)]
    shipping.write(*lines, "not JSON", log_line(status_code="OK"))
    for _ in range(2):
        killed = shipping.start(*KILL_AT_COMMIT)
        assert killed.wait(60) == -signal.SIGKILL
        assert not shipping.settings.shop_sincedb.exists()
        stored = len(shipping.documents())
        assert 0 < stored < 700, "a batch is stored, and the position is not"
    assert shipping.count().pending == 702 - stored
    logs = shipping.ship()
    assert (logs.lines, logs.documents, logs.rejected, logs.duplicates) == (702, 700, 2, 0)
    assert shipping.documents().keys() == {line["log_id"] for line in lines}
    again = shipping.ship()
    assert again == logs
    shipping.settings.shop_sincedb.unlink()
    assert shipping.ship() == logs, "to send everything again changes nothing"


def test_the_ledger_tells_pending_lost_and_changed_lines(shipping: Shipping) -> None:
    lines = [log_line() for _ in range(5)]
    shipping.write(*lines)
    assert (shipping.count().pending, shipping.count().lost) == (5, 0)
    shipping.ship()
    shipping.write(log_line(), "no JSON", lines[0] | {"message": "another content"})
    shipping.client.delete(index="app-logs-2026.11.29", id=lines[1]["log_id"])
    logs = shipping.count()
    assert (logs.documents, logs.duplicates, logs.pending, logs.lost) == (4, 1, 2, 1)
    assert "≠" in logs.note
    assert shipping.ship().rejected == 1
    shipping.client.indices.delete(index=shipping.settings.shop_rejected_logs_index)
    assert (shipping.count().rejected, shipping.count().lost) == (0, 2), "a rejected line does not expire"
    shipping.write("no JSON, neither")
    shipping.ship()
    old = log_line(timestamp="2026-01-01T00:00:00Z")
    shipping.write(old)
    shipping.ship()
    assert delete_expired_indices(shipping.client, dry_run=True) == ["app-logs-2026.01.01"]
    assert old["log_id"] in shipping.documents()
    assert delete_expired_indices(shipping.client) == ["app-logs-2026.01.01"]
    assert old["log_id"] not in shipping.documents()
    assert (shipping.count().expired, shipping.count().lost) == (1, 2)


# --- Kibana ---------------------------------------------------------------------------------------


def write_requests(shipping: Shipping, number: int, *, is_incident: bool) -> list[dict[str, Any]]:
    """Write the log of an application; returns its lines."""
    log = ApplicationLog(shipping.log, 7, is_incident=is_incident)
    for _ in range(number):
        log.write()
    log.close()
    return [json.loads(line) for line in shipping.log.read_text().splitlines()]


def fires(shipping: Shipping, rule: dict[str, Any], now: datetime) -> bool:
    """What Kibana asks for a rule of type .es-query, and whether it fires."""
    params = rule["params"]
    assert (params["searchType"], params["groupBy"], params["timeWindowUnit"]) == ("esQuery", "all", "m")
    window = {"gte": (now - timedelta(minutes=params["timeWindowSize"])).isoformat(), "lte": now.isoformat()}
    query = {"bool": {"filter": [params["esQuery"]["query"], {"range": {params["timeField"]: window}}]}}
    aggs = {"value": {params["aggType"]: {"field": params["aggField"]}}} if params["aggType"] != "count" else None
    answer = shipping.client.search(
        index=params["index"], query=query, aggs=aggs, size=0, track_total_hits=True, ignore_unavailable=True
    )
    if aggs and "aggregations" not in answer:  # there is no index yet
        return False
    value = answer["aggregations"]["value"]["value"] if aggs else answer["hits"]["total"]["value"]
    (threshold,) = params["threshold"]
    return value is not None and bool({">": gt, ">=": ge, "<": lt}[params["thresholdComparator"]](value, threshold))


def test_rules_fire_for_an_incident_and_not_before(shipping: Shipping) -> None:
    def fired() -> set[str]:
        shipping.client.indices.refresh(index="*app-logs*")
        return {rule["name"] for rule in read_rules("shop") if fires(shipping, rule, datetime.now(UTC))}

    errors, failed, slow, silent = (
        "Shop: more than 200 errors in 5 minutes", "Shop: 5 % of the requests fail",
        "Shop: p95 of the response time is above 450 ms", "Shop: no log line for 5 minutes",
    )  # fmt: skip
    assert fired() == {silent}
    write_requests(shipping, 600, is_incident=False)
    shipping.ship()
    assert fired() == set()
    write_requests(shipping, 1_500, is_incident=True)
    shipping.ship()
    assert fired() == {errors, failed, slow}


def test_every_panel_shows_the_figures_of_the_log(shipping: Shipping) -> None:
    lines = write_requests(shipping, 1_000, is_incident=True)
    shipping.ship()
    times = [datetime.fromisoformat(line["timestamp"]) for line in lines]
    shown = Rides(
        shipping.client, "app-logs-*", times[0] - timedelta(minutes=1), times[-1] + timedelta(minutes=1), "@timestamp"
    )
    shipping.client.indices.refresh(index="app-logs-*")

    def rows(name: str) -> list[dict[str, Any]]:
        panel: SavedObject = OBJECTS["lens", name]
        (layer,) = lens_layers(panel)
        return shown.of_lens(panel, layer)

    failed = sum(line["status_code"] >= 500 for line in lines)
    durations = sorted(line["response_time"] for line in lines)
    assert rows("line-count") == [{"line_count": 1_000}]
    assert rows("failed-share") == [{"failed_share": pytest.approx(failed / 1_000)}]
    (p95,) = rows("response-time-p95")
    assert p95["response_time_p95"] == pytest.approx(durations[950], rel=0.02)
    assert rows("newest-line") == [{"newest_line": times[-1].timestamp() * 1_000}]
    levels: Counter[str] = Counter()
    for row in rows("lines-per-minute"):
        levels[row["level"]] += row["lines_per_minute"]
    assert levels == Counter(line["level"] for line in lines)
    classes = {row["class"]: row["lines"] for row in rows("status-classes")}
    assert classes == {"3xx": 0} | Counter(f"{line['status_code'] // 100}xx" for line in lines)
    minutes = [row for row in rows("response-times") if row["p50"] is not None]
    assert minutes
    assert all(10 <= row["p50"] <= row["p95"] <= row["p99"] <= 500 for row in minutes)
    shares = [row["failed_of_minute"] for row in rows("failed-per-minute") if row["failed_of_minute"] is not None]
    assert max(shares) > 0.2
    paths = rows("paths-by-errors")
    assert sum(row["failures"] for row in paths) == failed
    assert [row["failures"] for row in paths] == sorted((row["failures"] for row in paths), reverse=True)
    assert Counter({row["path"]: row["requests"] for row in paths}) == Counter(
        line["message"].removeprefix("API request ") for line in lines
    )
    latest = shown.of_search(OBJECTS["search", "latest-errors"])
    assert [row["@timestamp"] for row in latest] == sorted((row["@timestamp"] for row in latest), reverse=True)
    assert {row["event.id"] for row in latest} == {line["log_id"] for line in lines if line["level"] == "ERROR"}
    assert {name for kind, name in OBJECTS if kind == "lens"} == {
        *("line-count", "failed-share", "response-time-p95", "newest-line", "lines-per-minute", "status-classes"),
        *("response-times", "failed-per-minute", "paths-by-errors"),
    }, "a new panel needs a test"


# --- Last, because Elasticsearch needs some seconds to come back -------------------------------------


def test_elasticsearch_is_killed_and_comes_back(shipping: Shipping, running: Any) -> None:
    lines = [log_line() for _ in range(1_500)]
    shipping.write(*lines[:500])

    def is_back() -> bool:
        (entry,) = local_stack(running).status()
        return entry.healthy and entry.state.pid != killed

    killed = supervisor.read_states(Paths(running.datastream_state))["elasticsearch"].pid
    with shipping.start() as shipper:
        try:
            shipping.wait()
            os.kill(killed, signal.SIGKILL)
            shipping.write(*lines[500:], "not JSON")
            until(is_back, "Elasticsearch is back", 4 * DEADLINE_S)
            shipping.wait()
        finally:
            shipper.terminate()
        assert shipper.wait(DEADLINE_S) == 0, "it ends in order"
    logs = shipping.count()
    assert (logs.lines, logs.documents, logs.rejected, logs.lost) == (1_501, 1_500, 1, 0)
    assert shipping.documents().keys() == {line["log_id"] for line in lines}
