"""Reprocessing corrects a wrong price in Kafka, Elasticsearch and Parquet once, after any kill."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import __main__ as command_line
from jobs import airflow_api
from jobs.clients import Systems
from jobs.errors import ConfigurationError
from jobs.kafka import lag
from jobs.kafka.offsets import encode_metadata
from jobs.kafka.transaction import GroupWriter
from jobs.rides.distance import haversine
from jobs.rides.ops import reprocess as module
from jobs.rides.ops.reindex import reindex
from jobs.rides.ops.reprocess import Reprocessed, Window, parse_window, plan_work, reprocess
from jobs.rides.ops.superseded import is_reprocessing
from jobs.settings import ROOT
from jobs.zones import playbook
from jobs.zones.local import LocalEngine
from tests.testkit import flow
from tests.testkit.flow import Pipeline, run_continuously
from tests.testkit.kafka import Raw, delete_all_records, produce
from tests.testkit.rides import encode, keyed, ride
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(180)

FROM, TO = "2026-01-05T08:30:00Z", "2026-01-05T10:00:00Z"
BEFORE = ["2026-01-05T08:00:00Z", "2026-01-05T08:29:59.999999Z", "2026-01-04T10:00:00+00:00"]
INSIDE = ["2026-01-05T08:30:00Z", "2026-01-05T11:15:00.5+02:00", "2026-01-05T09:59:59.999999Z"]
AFTER = ["2026-01-05T10:00:00Z", "2026-01-05T10:30:00Z"]
WINDOW = parse_window(FROM, TO)


def wrong(*degrees: Any) -> Any:
    return 2 * haversine(*degrees)


def price_of(raw: dict[str, Any]) -> float:
    """The correct price of a ride, by the contract's formula."""
    ends = [np.array([raw[end][axis]]) for end in ("origin", "destination") for axis in ("lat", "lon")]
    km = float(haversine(*ends)[0])
    return float(raw["price_base"] + km * raw["price_per_km"] + raw["duration_min"] * raw["price_per_min"])


class Rides:
    """The rides that were sent and priced wrongly, and the content of the systems then."""

    def __init__(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pipeline = pipeline
        self.inside = [ride(ts=ts) for ts in INSIDE for _ in range(10)]
        self.outside = [ride(ts=ts) for ts in [*BEFORE, *AFTER] for _ in range(5)]
        trace = [("trace", b"\x00\xff")]
        sent = [keyed(sent_ride) for sent_ride in (*self.inside, *self.outside, *self.inside[:4], *self.outside[:2])]
        bad = [Raw(encode(ride(ts=FROM, comfort="none")), b"bad"), Raw(b"bad", b"k")]
        with monkeypatch.context() as patch:
            patch.setattr(flow, "haversine", wrong)
            produce(
                pipeline.stack.kafka,
                pipeline.pricing.source,
                [message._replace(headers=trace) for message in (*sent, *bad)],
            )
            pipeline.run()
        self.raw = flow.read_all(pipeline.stack.kafka, pipeline.pricing.source)
        self.documents = pipeline.sinking.documents()
        self.objects = pipeline.exporting.objects()
        assert pipeline.ledger().exit_code == 0

    def rows(self) -> list[dict[str, Any]]:
        return [
            row
            for content in self.pipeline.exporting.objects().values()
            for row in pq.read_table(io.BytesIO(content)).to_pylist()
        ]

    def check(self, copies: int = 34) -> None:
        """Rides in the window are correct, all others are unchanged, and the ledger is balanced."""
        ledger = self.pipeline.ledger()
        assert (ledger.faults, ledger.exit_code) == ([], 0)
        assert (ledger.reprocessed, ledger.to_purge, ledger.dlq, ledger.duplicates) == (copies, 0, 2, 6)

        raw = flow.read_all(self.pipeline.stack.kafka, self.pipeline.pricing.source)
        assert len(raw) == len(self.raw) + copies
        known = {(record.partition, record.offset) for record in self.raw}
        for copy in (record for record in raw if (record.partition, record.offset) not in known):
            marks = dict(copy.headers or [])
            source = next(
                record
                for record in raw
                if f"{record.partition}:{record.offset}".encode() == marks["datastream.reprocessed"]
            )
            assert (copy.key, copy.value, copy.partition) == (source.key, source.value, source.partition), (
                "byte for byte"
            )
            assert (copy.headers or [])[:1] == (source.headers or [])[:1] == [("trace", b"\x00\xff")]

        documents, rows = self.pipeline.sinking.documents(), self.rows()
        assert Counter(row["ride_id"] for row in rows) == Counter(
            sent_ride["ride_id"] for sent_ride in (*self.inside, *self.outside, *self.inside[:4], *self.outside[:2])
        )
        prices = {sent_ride["ride_id"]: price_of(sent_ride) for sent_ride in self.inside}
        for row in rows:
            if row["ride_id"] in prices:
                assert row["price_total"] == prices[row["ride_id"]]
        assert {key: documents[key]["price_total"] for key in prices} == prices
        for sent_ride in self.outside:
            assert documents[sent_ride["ride_id"]] == self.documents[sent_ride["ride_id"]]
            assert documents[sent_ride["ride_id"]]["price_total"] > price_of(sent_ride), (
                "these are outside of the window"
            )
        objects = self.pipeline.exporting.objects()
        untouched = [name for name in self.objects if "/05/09/" not in name and "/05/08/" not in name]
        assert len(untouched) > 5
        assert {name: objects[name] for name in untouched} == {name: self.objects[name] for name in untouched}
        positions = {(row["kafka_partition"], row["kafka_offset"]): row for row in rows}
        for content in self.objects.values():
            for row in pq.read_table(io.BytesIO(content)).to_pylist():
                if row["ride_id"] not in prices:
                    assert positions[row["kafka_partition"], row["kafka_offset"]] == row


@pytest.fixture
def rides(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Rides:
    monkeypatch.setattr(lag, "_POLL_S", 0.05)
    return Rides(pipeline, monkeypatch)


def run(pipeline: Pipeline, wanted: Window = WINDOW) -> Reprocessed:
    with run_continuously(pipeline):
        return reprocess(pipeline.systems, plan_work(pipeline.systems, wanted), lambda: None)


# --- Without failures -----------------------------------------------------------------------------


def test_a_wrong_price_is_corrected_in_every_system(rides: Rides) -> None:
    work = plan_work(rides.pipeline.systems, WINDOW)
    assert (len(work.rides), work.is_begun) == (30, False)
    done = run(rides.pipeline)
    assert (done.rides, done.copies, done.rows, done.rejected, done.untouched) == (30, 34, 34, 0, 0)
    rides.check()


def test_the_reprocess_command_asks_and_reports(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rides.pipeline.names.items():
        monkeypatch.setenv(name.upper(), value)
    asked: list[Any] = []
    monkeypatch.setattr(airflow_api, "trigger", lambda *arguments: asked.append(arguments))  # there is no Airflow here
    command = ["reprocess", FROM, TO]
    refused = CliRunner().invoke(command_line.app, command, input="n\n")
    assert refused.exit_code == 1
    assert "Price 30 rides of FROM=2026-01-05T08:30:00.000000Z TO=2026-01-05T10:00:00.000000Z again" in refused.output
    assert not is_reprocessing(rides.pipeline.stack.kafka, rides.pipeline.pricing.source)
    with run_continuously(rides.pipeline, is_export_due=lambda: bool(asked)):
        done = CliRunner().invoke(command_line.app, [*command, "--yes"])
    assert (done.exit_code, done.exception) == (0, None)
    assert "Priced 30 rides again (34 messages). Deleted 34 rows of old results from Parquet" in done.output
    assert asked
    rides.check()
    nothing = CliRunner().invoke(command_line.app, ["reprocess", "2020-01-01", "2020-01-02"])
    assert "holds no priced ride" in nothing.output


def test_reprocessing_again_takes_only_the_copies(rides: Rides) -> None:
    run(rides.pipeline)
    done = run(rides.pipeline)
    assert (done.rides, done.copies, done.rows) == (30, 34, 34)
    rides.check(copies=68)
    part = run(rides.pipeline, parse_window("2026-01-05T09:00:00Z", "2026-01-05T09:30:00Z"))
    assert (part.rides, part.copies, part.rows) == (10, 10, 10)
    rides.check(copies=78)


def test_the_playbook_shows_the_right_revenue(rides: Rides) -> None:
    """The native table held the wrong prices before."""
    names = {"01_dataset", "02_rides_processed_ext", "03_rides_distinct", "04_rides_processed", "30_merge_rides"}
    steps = [step for step in playbook.read_steps("dataset", "setup", "score") if step.name in names]
    assert len(steps) == len(names)
    values = playbook.build_parameters(rides.pipeline.settings)

    def revenue(engine: LocalEngine) -> float:
        for step in steps:
            for statement in step.build_statements(values):
                engine.run(statement, step.name)
        sql = f"SELECT ride_id, price_total FROM {values.dataset}.rides_processed"  # noqa: S608
        inside = {sent_ride["ride_id"] for sent_ride in rides.inside}
        prices = {row["ride_id"]: row["price_total"] for row in engine.run(sql, "look").to_records()}
        assert len(prices) == len(rides.inside) + len(rides.outside)
        return float(sum(price for ride_id, price in prices.items() if ride_id in inside))

    right = sum(map(price_of, rides.inside))
    with LocalEngine(rides.pipeline.exporting.gcs) as engine:
        assert revenue(engine) > 1.2 * right
        run(rides.pipeline)
        assert revenue(engine) == pytest.approx(right)


def test_a_ride_that_is_now_rejected_is_deleted_from_the_sinks(
    pipeline: Pipeline, rides: Rides, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [ride(ts=FROM, origin={"lat": 1.5, "lon": 0}) for _ in range(5)]
    produce(pipeline.stack.kafka, pipeline.pricing.source, map(keyed, more))
    pipeline.run()
    # From now on, the price of a ride that starts there is too large.
    monkeypatch.setattr(flow, "haversine", lambda lat, *rest: np.where(lat == 1.5, np.inf, haversine(lat, *rest)))
    done = run(pipeline)
    assert (done.rides, done.copies, done.rows, done.rejected) == (35, 39, 39, 5)
    gone = {sent_ride["ride_id"] for sent_ride in more}
    assert not gone & set(pipeline.sinking.documents())
    assert not gone & {row["ride_id"] for row in rides.rows()}
    ledger = pipeline.ledger()
    assert (ledger.faults, ledger.exit_code, ledger.dlq) == ([], 0, 7)
    run(pipeline)
    assert (pipeline.ledger().exit_code, pipeline.ledger().dlq) == (0, 7), "what is rejected is not sent again"
    rebuild_sinks(pipeline)
    assert pipeline.ledger().exit_code == 1, "its old results are in the sinks again"
    done = run(pipeline)
    assert (done.rejected, done.untouched) == (5, 0)
    assert not gone & set(pipeline.sinking.documents())
    assert not gone & {row["ride_id"] for row in rides.rows()}
    assert (pipeline.ledger().faults, pipeline.ledger().exit_code) == ([], 0)


def test_a_window_of_only_rejected_rides_is_purged_again(
    pipeline: Pipeline, rides: Rides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "haversine", lambda lat, *_: np.full(len(lat), np.inf))
    assert run(pipeline).rejected == 30
    rebuild_sinks(pipeline)
    work = plan_work(pipeline.systems, WINDOW)
    assert (work.rides, len(work.earlier.rides)) == (set(), 30)
    done = run(pipeline)
    assert (done.copies, done.rejected, done.untouched) == (0, 30, 0)
    assert (pipeline.ledger().faults, pipeline.ledger().exit_code) == ([], 0)
    assert not {sent_ride["ride_id"] for sent_ride in rides.inside} & set(pipeline.sinking.documents())


def test_the_latest_message_of_a_ride_stays_the_latest(pipeline: Pipeline, rides: Rides) -> None:
    """One ride was sent again with a ts outside of the window, and one has not been priced yet."""
    moved, late = rides.inside[0] | {"ts": AFTER[0], "price_base": 70}, rides.inside[1] | {"price_base": 80}
    produce(pipeline.stack.kafka, pipeline.pricing.source, [keyed(moved)])
    pipeline.run()
    produce(pipeline.stack.kafka, pipeline.pricing.source, [keyed(late)])
    run(pipeline)
    documents = pipeline.sinking.documents()
    assert documents[moved["ride_id"]]["price_base"] == 70
    assert documents[late["ride_id"]]["price_base"] == 80
    assert pipeline.ledger().exit_code == 0


def test_rides_deleted_by_retention_are_kept_in_the_sinks_and_counted(pipeline: Pipeline, rides: Rides) -> None:
    delete_all_records(pipeline.stack.kafka, pipeline.pricing.source)
    assert plan_work(pipeline.systems, WINDOW).rides == set()
    produce(pipeline.stack.kafka, pipeline.pricing.source, [keyed(sent_ride) for sent_ride in rides.inside[:3]])
    pipeline.run()
    done = run(pipeline)
    assert (done.rides, done.untouched) == (3, 27)
    documents = pipeline.sinking.documents()
    assert all(
        documents[sent_ride["ride_id"]] == rides.documents[sent_ride["ride_id"]] for sent_ride in rides.inside[3:]
    )
    assert all(documents[sent_ride["ride_id"]]["price_total"] == price_of(sent_ride) for sent_ride in rides.inside[:3])


def test_a_lost_index_is_rebuilt_with_the_right_prices(pipeline: Pipeline, rides: Rides) -> None:
    run(pipeline)
    before = pipeline.sinking.documents()
    pipeline.stack.elasticsearch.indices.delete(index=pipeline.sinking.index)
    reindex(pipeline.systems)
    assert pipeline.sinking.documents() == before


def rebuild_sinks(pipeline: Pipeline) -> None:
    """As in docs/runbook_kafka.md."""
    pipeline.stack.elasticsearch.indices.delete(index=pipeline.sinking.index)
    for blob in pipeline.stack.gcs.list_blobs(pipeline.stack.bucket, prefix=pipeline.exporting.prefix):
        blob.delete()
    for sink in (pipeline.sinking, pipeline.exporting):
        sink.set_offsets("beginning")
        sink.run()


def test_rebuilt_sinks_need_another_reprocessing(pipeline: Pipeline, rides: Rides) -> None:
    """docs/runbook_kafka.md, "Rebuild the sinks"."""
    run(pipeline)
    rebuild_sinks(pipeline)
    ledger = pipeline.ledger()
    assert ledger.exit_code == 1
    assert any("a reprocessing has replaced" in fault for fault in ledger.faults), ledger.faults
    assert run(pipeline).copies == 34
    ledger = pipeline.ledger()
    assert (ledger.faults, ledger.exit_code) == ([], 0)
    sent = (*rides.inside, *rides.outside, *rides.inside[:4], *rides.outside[:2])
    assert Counter(row["ride_id"] for row in rides.rows()) == Counter(sent_ride["ride_id"] for sent_ride in sent)
    documents = pipeline.sinking.documents()
    assert all(documents[sent_ride["ride_id"]]["price_total"] == price_of(sent_ride) for sent_ride in rides.inside)


# --- Killed ---------------------------------------------------------------------------------------


def fail_at(call: int, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The function, which fails at its n-th call, before or after its work."""
    calls = count(1)

    def failing(*arguments: Any, **options: Any) -> Any:
        is_it = next(calls) == call
        if is_it and not after:
            raise OSError("killed")
        answer = function(*arguments, **options)
        if is_it:
            raise OSError("killed")
        return answer

    return failing


@pytest.mark.parametrize(
    ("name", "call", "after"),
    [
        pytest.param("_commit", 1, True, id="planned"),
        pytest.param("_commit", 2, True, id="one-list-is-sent"),
        pytest.param("_commit", 5, False, id="some-are-sent"),
        pytest.param("_send", 1, True, id="all-is-sent"),
        pytest.param("_wait_for", 2, True, id="indexed"),
        pytest.param("_read_copies", 1, True, id="exported"),
        pytest.param("delete_rows", 3, True, id="some-objects-are-purged"),
        pytest.param("_purge_parquet", 1, True, id="all-objects-are-purged"),
        pytest.param("delete_where", 1, True, id="all-is-purged"),
    ],
)
def test_a_reprocessing_that_fails_anywhere_can_be_resumed(
    rides: Rides, monkeypatch: pytest.MonkeyPatch, name: str, call: int, after: bool
) -> None:
    pipeline = rides.pipeline
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_at(call, getattr(module, name), after=after))
        with pytest.raises(OSError, match="killed"):
            run(pipeline)
    ledger = pipeline.ledger()
    assert (ledger.faults, ledger.exit_code, ledger.is_reprocessing) == ([], 2, True)
    with pytest.raises(
        ConfigurationError, match=r"unfinished.*make reprocess FROM=2026-01-05T08:30:00.000000Z TO=2026"
    ):
        plan_work(pipeline.systems, parse_window("2026-01-05", "2026-01-06"))
    with pytest.raises(ConfigurationError, match="A reprocessing is unfinished"):
        reindex(pipeline.systems)
    done = run(pipeline)
    assert (done.rides, done.copies) == (30, 34)
    rides.check()
    assert not plan_work(pipeline.systems, WINDOW).is_begun


def test_a_reindex_fails_when_a_reprocessing_begins(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = rides.pipeline
    begun = False

    def begin(*_: Any) -> None:
        nonlocal begun
        if not begun:
            begun = True
            with monkeypatch.context() as patch:
                patch.setattr(module, "_commit", fail_at(1, module._commit, after=True))
                with pytest.raises(OSError, match="killed"):
                    run(pipeline)

    with pytest.raises(ConfigurationError, match="A reprocessing is unfinished"):
        reindex(Systems(pipeline.settings, begin, may_write=True))
    assert begun
    run(pipeline)
    rides.check()


def test_a_reprocessing_that_fails_in_a_transaction_can_be_resumed(
    rides: Rides, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "send", fail_at(17, GroupWriter.send, after=True))
        with pytest.raises(OSError, match="killed"):
            reprocess(rides.pipeline.systems, plan_work(rides.pipeline.systems, WINDOW), lambda: None)
    run(rides.pipeline)
    rides.check()


KILLED = """
    import sys, time
    from pathlib import Path
    from jobs import __main__ as command_line
    from jobs.kafka.transaction import GroupWriter

    calls, send = 0, GroupWriter.send

    def blocking(writer, *arguments):
        global calls
        calls += 1
        send(writer, *arguments)
        if calls == 17:
            assert writer._producer.flush(30) == 0
            Path(sys.argv[1]).touch()
            time.sleep(600)

    GroupWriter.send = blocking
    command_line.app(["reprocess", sys.argv[2], sys.argv[3], "--yes"])
"""


def test_a_reprocessing_killed_in_a_transaction_can_be_resumed(rides: Rides, tmp_path: Path) -> None:
    mark = tmp_path / "blocked"
    names = {name.upper(): value for name, value in rides.pipeline.names.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(mark), FROM, TO], cwd=ROOT, env={**os.environ, **names}
    )
    try:
        until(lambda: mark.exists() or process.poll() is not None, "it is at its 17th copy", within_s=60)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert rides.pipeline.ledger().exit_code == 2
    done = run(rides.pipeline)
    assert (done.rides, done.copies) == (30, 34)
    rides.check()


def test_a_second_worker_fences_the_first(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sleeps with sent, uncommitted copies; meanwhile the second does all the work."""
    from jobs.errors import ServiceUnavailableError

    pipeline, send = rides.pipeline, GroupWriter.send

    def asleep(writer: GroupWriter, *arguments: Any) -> None:
        monkeypatch.setattr(GroupWriter, "send", send)
        assert run(pipeline).copies == 34
        send(writer, *arguments)

    monkeypatch.setattr(GroupWriter, "send", asleep)
    with pytest.raises(ServiceUnavailableError, match="a newer worker has taken over"):
        reprocess(pipeline.systems, plan_work(pipeline.systems, WINDOW), lambda: None)
    rides.check()


def test_plans_fit_the_offset_metadata() -> None:
    """Kafka takes 4,096 bytes of metadata (offset.metadata.max.bytes)."""
    ends = module.format_positions(dict.fromkeys(range(200), 10**12))
    plan = msgspec.json.encode(module.Plan(WINDOW, 10**12, 10**12, ends))
    assert len(encode_metadata("zbwYara2T1+hraYqPqBAhg", plan)) < 4096
