"""A wrong price is mended end to end: at Kafka, Elasticsearch and Parquet, once, wherever it is killed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import __main__ as command_line
from jobs import airflow_api
from jobs.errors import ConfigurationError
from jobs.kafka import lag
from jobs.kafka.offsets import encode_metadata
from jobs.kafka.transaction import GroupWriter
from jobs.rides.distance import haversine
from jobs.rides.ops import reprocess as module
from jobs.rides.ops.reindex import reindex
from jobs.rides.ops.reprocess import Reprocessed, Systems, Window, look, reprocess, window
from jobs.rides.ops.superseded import is_reprocessing
from jobs.settings import ROOT
from jobs.zones import playbook
from jobs.zones.local import LocalEngine
from tests.testkit import flow
from tests.testkit.flow import Books
from tests.testkit.kafka import Raw, delete_all_records, produce
from tests.testkit.rides import encode, keyed, ride
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(180)

FROM, TO = "2026-01-05T08:30:00Z", "2026-01-05T10:00:00Z"
BEFORE = ["2026-01-05T08:00:00Z", "2026-01-05T08:29:59.999999Z", "2026-01-04T10:00:00+00:00"]
INSIDE = ["2026-01-05T08:30:00Z", "2026-01-05T11:15:00.5+02:00", "2026-01-05T09:59:59.999999Z"]
AFTER = ["2026-01-05T10:00:00Z", "2026-01-05T10:30:00Z"]
WINDOW = window(FROM, TO)


def wrong(*degrees: Any) -> Any:
    return 2 * haversine(*degrees)


def price_of(raw: dict[str, Any]) -> float:
    """The right price of a ride, by the contract's formula."""
    ends = [np.array([raw[end][axis]]) for end in ("origin", "destination") for axis in ("lat", "lon")]
    km = float(haversine(*ends)[0])
    return float(raw["price_base"] + km * raw["price_per_km"] + raw["duration_min"] * raw["price_per_min"])


class Rides:
    """What was sent, priced wrongly, and looked at then."""

    def __init__(self, books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
        self.books = books
        self.inside = [ride(ts=ts) for ts in INSIDE for _ in range(10)]
        self.outside = [ride(ts=ts) for ts in [*BEFORE, *AFTER] for _ in range(5)]
        trace = [("trace", b"\x00\xff")]
        sent = [keyed(it) for it in (*self.inside, *self.outside, *self.inside[:4], *self.outside[:2])]
        bad = [Raw(encode(ride(ts=FROM, comfort="none")), b"bad"), Raw(b"bad", b"k")]
        with monkeypatch.context() as patch:
            patch.setattr(flow, "haversine", wrong)
            produce(books.stack.kafka, books.pricing.source, [it._replace(headers=trace) for it in (*sent, *bad)])
            books.run()
        self.raw = flow.read_all(books.stack.kafka, books.pricing.source)
        self.documents = books.sinking.documents()
        self.objects = books.exporting.objects()
        assert books.ledger().exit_code == 0

    def rows(self) -> list[dict[str, Any]]:
        return [
            row
            for content in self.books.exporting.objects().values()
            for row in pq.read_table(io.BytesIO(content)).to_pylist()
        ]

    def check(self, copies: int = 34) -> None:
        """Everything inside of the window is right, everything else is as it was, and the books are balanced."""
        found = self.books.ledger()
        assert (found.faults, found.exit_code) == ([], 0)
        assert (found.reprocessed, found.to_purge, found.dlq, found.duplicates) == (copies, 0, 2, 6)

        raw = flow.read_all(self.books.stack.kafka, self.books.pricing.source)
        assert len(raw) == len(self.raw) + copies
        known = {(record.partition, record.offset) for record in self.raw}
        for copy in (record for record in raw if (record.partition, record.offset) not in known):
            marks = dict(copy.headers or [])
            of = next(it for it in raw if f"{it.partition}:{it.offset}".encode() == marks["datastream.reprocessed"])
            assert (copy.key, copy.value, copy.partition) == (of.key, of.value, of.partition), "byte for byte"
            assert (copy.headers or [])[:1] == (of.headers or [])[:1] == [("trace", b"\x00\xff")]

        documents, rows = self.books.sinking.documents(), self.rows()
        assert Counter(row["ride_id"] for row in rows) == Counter(
            it["ride_id"] for it in (*self.inside, *self.outside, *self.inside[:4], *self.outside[:2])
        )
        prices = {it["ride_id"]: price_of(it) for it in self.inside}
        for row in rows:
            if row["ride_id"] in prices:
                assert row["price_total"] == prices[row["ride_id"]]
        assert {key: documents[key]["price_total"] for key in prices} == prices
        for it in self.outside:
            assert documents[it["ride_id"]] == self.documents[it["ride_id"]]
            assert documents[it["ride_id"]]["price_total"] > price_of(it), "nobody asked to mend these"
        objects = self.books.exporting.objects()
        untouched = [name for name in self.objects if "/05/09/" not in name and "/05/08/" not in name]
        assert len(untouched) > 5
        assert {name: objects[name] for name in untouched} == {name: self.objects[name] for name in untouched}
        positions = {(row["kafka_partition"], row["kafka_offset"]): row for row in rows}
        for content in self.objects.values():
            for row in pq.read_table(io.BytesIO(content)).to_pylist():
                if row["ride_id"] not in prices:
                    assert positions[row["kafka_partition"], row["kafka_offset"]] == row


@pytest.fixture
def rides(books: Books, monkeypatch: pytest.MonkeyPatch) -> Rides:
    monkeypatch.setattr(lag, "_POLL_S", 0.05)
    return Rides(books, monkeypatch)


@contextmanager
def dags(books: Books, is_export_due: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Both DAGs at work, as in Airflow: each flow whenever there is something to do."""
    ended = Event()

    def work() -> None:
        while not ended.is_set():
            for each in (books.pricing, books.sinking, books.exporting):
                if (each is not books.exporting or is_export_due()) and each.stage() is not None:
                    each.run()
            ended.wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            ended.set()
        working.result()


def systems(books: Books) -> Systems:
    return Systems(books.settings, may_write=True)


def run(books: Books, wanted: Window = WINDOW) -> Reprocessed:
    with dags(books):
        return reprocess(systems(books), look(systems(books), wanted), lambda: None)


# --- The plain way -----------------------------------------------------------------------------


def test_a_wrong_price_is_mended_everywhere(rides: Rides) -> None:
    found = look(systems(rides.books), WINDOW)
    assert (len(found.rides), found.is_begun) == (30, False)
    done = run(rides.books)
    assert (done.rides, done.copies, done.rows, done.rejected, done.untouched) == (30, 34, 34, 0, 0)
    rides.check()


def test_the_command_asks_and_tells(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rides.books.names.items():
        monkeypatch.setenv(name.upper(), value)
    asked: list[Any] = []
    monkeypatch.setattr(airflow_api, "trigger", lambda *arguments: asked.append(arguments))  # there is no Airflow here
    command = ["reprocess", FROM, TO]
    refused = CliRunner().invoke(command_line.app, command, input="n\n")
    assert refused.exit_code == 1
    assert "Price 30 rides of FROM=2026-01-05T08:30:00.000000Z TO=2026-01-05T10:00:00.000000Z anew" in refused.output
    assert not is_reprocessing(rides.books.stack.kafka, rides.books.pricing.source)
    with dags(rides.books, is_export_due=lambda: bool(asked)):
        done = CliRunner().invoke(command_line.app, [*command, "--yes"])
    assert (done.exit_code, done.exception) == (0, None)
    assert "30 rides are priced anew (34 messages). 34 rows of old results are out of Parquet" in done.output
    assert asked
    rides.check()
    nothing = CliRunner().invoke(command_line.app, ["reprocess", "2020-01-01", "2020-01-02"])
    assert "holds no priced ride" in nothing.output


def test_once_more_takes_the_copies_only(rides: Rides) -> None:
    run(rides.books)
    done = run(rides.books)
    assert (done.rides, done.copies, done.rows) == (30, 34, 34)
    rides.check(copies=68)
    part = run(rides.books, window("2026-01-05T09:00:00Z", "2026-01-05T09:30:00Z"))
    assert (part.rides, part.copies, part.rows) == (10, 10, 10)
    rides.check(copies=78)


def test_the_playbook_shows_the_right_revenue(rides: Rides) -> None:
    """In the native table too, which held the wrong prices already."""
    names = {"01_dataset", "02_rides_processed_ext", "03_rides_distinct", "04_rides_processed", "30_merge_rides"}
    steps = [step for step in playbook.steps("dataset", "setup", "score") if step.name in names]
    assert len(steps) == len(names)
    values = playbook.parameters(rides.books.settings)

    def revenue(engine: LocalEngine) -> float:
        for step in steps:
            for statement in step.statements(values):
                engine.run(statement, step.name)
        sql = f"SELECT ride_id, price_total FROM {values.dataset}.rides_processed"  # noqa: S608
        inside = {it["ride_id"] for it in rides.inside}
        found = {row["ride_id"]: row["price_total"] for row in engine.run(sql, "look").to_records()}
        assert len(found) == len(rides.inside) + len(rides.outside)
        return float(sum(price for ride_id, price in found.items() if ride_id in inside))

    right = sum(map(price_of, rides.inside))
    with LocalEngine(rides.books.exporting.gcs) as engine:
        assert revenue(engine) > 1.2 * right
        run(rides.books)
        assert revenue(engine) == pytest.approx(right)


def test_a_ride_that_is_rejected_by_now_leaves_the_sinks(
    books: Books, rides: Rides, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [ride(ts=FROM, origin={"lat": 1.5, "lon": 0}) for _ in range(5)]
    produce(books.stack.kafka, books.pricing.source, map(keyed, more))
    books.run()
    # From now on a ride that starts there is priced with a number that is too large.
    monkeypatch.setattr(flow, "haversine", lambda lat, *rest: np.where(lat == 1.5, np.inf, haversine(lat, *rest)))
    done = run(books)
    assert (done.rides, done.copies, done.rows, done.rejected) == (35, 39, 39, 5)
    gone = {it["ride_id"] for it in more}
    assert not gone & set(books.sinking.documents())
    assert not gone & {row["ride_id"] for row in rides.rows()}
    found = books.ledger()
    assert (found.faults, found.exit_code, found.dlq) == ([], 0, 7)
    run(books)
    assert (books.ledger().exit_code, books.ledger().dlq) == (0, 7), "what is rejected is not sent again"
    rebuild_sinks(books)
    assert books.ledger().exit_code == 1, "its old results are in the sinks again"
    done = run(books)
    assert (done.rejected, done.untouched) == (5, 0)
    assert not gone & set(books.sinking.documents())
    assert not gone & {row["ride_id"] for row in rides.rows()}
    assert (books.ledger().faults, books.ledger().exit_code) == ([], 0)


def test_a_window_whose_rides_are_all_rejected_by_now_is_purged_again(
    books: Books, rides: Rides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "haversine", lambda lat, *_: np.full(len(lat), np.inf))
    assert run(books).rejected == 30
    rebuild_sinks(books)
    found = look(systems(books), WINDOW)
    assert (found.rides, len(found.earlier.rides)) == (set(), 30)
    done = run(books)
    assert (done.copies, done.rejected, done.untouched) == (0, 30, 0)
    assert (books.ledger().faults, books.ledger().exit_code) == ([], 0)
    assert not {it["ride_id"] for it in rides.inside} & set(books.sinking.documents())


def test_the_latest_message_of_a_ride_stays_the_latest(books: Books, rides: Rides) -> None:
    """One that was sent later with a ts outside of the window, and one that nobody has priced yet."""
    moved, late = rides.inside[0] | {"ts": AFTER[0], "price_base": 70}, rides.inside[1] | {"price_base": 80}
    produce(books.stack.kafka, books.pricing.source, [keyed(moved)])
    books.run()
    produce(books.stack.kafka, books.pricing.source, [keyed(late)])
    run(books)
    documents = books.sinking.documents()
    assert documents[moved["ride_id"]]["price_base"] == 70
    assert documents[late["ride_id"]]["price_base"] == 80
    assert books.ledger().exit_code == 0


def test_what_retention_has_taken_is_left_and_counted(books: Books, rides: Rides) -> None:
    delete_all_records(books.stack.kafka, books.pricing.source)
    assert look(systems(books), WINDOW).rides == set()
    produce(books.stack.kafka, books.pricing.source, [keyed(it) for it in rides.inside[:3]])
    books.run()
    done = run(books)
    assert (done.rides, done.untouched) == (3, 27)
    documents = books.sinking.documents()
    assert all(documents[it["ride_id"]] == rides.documents[it["ride_id"]] for it in rides.inside[3:])
    assert all(documents[it["ride_id"]]["price_total"] == price_of(it) for it in rides.inside[:3])


def test_a_lost_index_comes_back_with_the_right_prices(books: Books, rides: Rides) -> None:
    run(books)
    before = books.sinking.documents()
    books.stack.elasticsearch.indices.delete(index=books.sinking.index)
    reindex(systems(books))
    assert books.sinking.documents() == before


def rebuild_sinks(books: Books) -> None:
    """As docs/runbook_kafka.md does it."""
    books.stack.elasticsearch.indices.delete(index=books.sinking.index)
    for blob in books.stack.gcs.list_blobs(books.stack.bucket, prefix=books.exporting.prefix):
        blob.delete()
    for sink in (books.sinking, books.exporting):
        sink.set_offsets("beginning")
        sink.run()


def test_sinks_that_are_rebuilt_afterwards_need_it_once_more(books: Books, rides: Rides) -> None:
    """docs/runbook_kafka.md, "Rebuild the sinks"."""
    run(books)
    rebuild_sinks(books)
    found = books.ledger()
    assert found.exit_code == 1
    assert any("a reprocessing has replaced" in fault for fault in found.faults), found.faults
    assert run(books).copies == 34
    found = books.ledger()
    assert (found.faults, found.exit_code) == ([], 0)
    sent = (*rides.inside, *rides.outside, *rides.inside[:4], *rides.outside[:2])
    assert Counter(row["ride_id"] for row in rides.rows()) == Counter(it["ride_id"] for it in sent)
    documents = books.sinking.documents()
    assert all(documents[it["ride_id"]]["price_total"] == price_of(it) for it in rides.inside)


# --- Killed ------------------------------------------------------------------------------------


def fail_at(call: int, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The function, failing at its n-th call, before or after its work."""
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
        pytest.param("_sent", 1, True, id="exported"),
        pytest.param("delete_rows", 3, True, id="some-objects-are-purged"),
        pytest.param("_purge_parquet", 1, True, id="all-objects-are-purged"),
        pytest.param("delete_where", 1, True, id="all-is-purged"),
    ],
)
def test_ended_anywhere_and_done_again(
    rides: Rides, monkeypatch: pytest.MonkeyPatch, name: str, call: int, after: bool
) -> None:
    books = rides.books
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_at(call, getattr(module, name), after=after))
        with pytest.raises(OSError, match="killed"):
            run(books)
    found = books.ledger()
    assert (found.faults, found.exit_code, found.is_reprocessing) == ([], 2, True)
    with pytest.raises(ConfigurationError, match=r"not done.*make reprocess FROM=2026-01-05T08:30:00.000000Z TO=2026"):
        look(systems(books), window("2026-01-05", "2026-01-06"))
    with pytest.raises(ConfigurationError, match="A reprocessing is not done"):
        reindex(systems(books))
    done = run(books)
    assert (done.rides, done.copies) == (30, 34)
    rides.check()
    assert not look(systems(books), WINDOW).is_begun


def test_a_reindex_during_which_one_begins(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    books = rides.books
    begun = False

    def begin(*_: Any) -> None:
        nonlocal begun
        if not begun:
            begun = True
            with monkeypatch.context() as patch:
                patch.setattr(module, "_commit", fail_at(1, module._commit, after=True))
                with pytest.raises(OSError, match="killed"):
                    run(books)

    with pytest.raises(ConfigurationError, match="A reprocessing is not done"):
        reindex(Systems(books.settings, begin, may_write=True))
    assert begun
    run(books)
    rides.check()


def test_ended_within_a_transaction(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(GroupWriter, "send", fail_at(17, GroupWriter.send, after=True))
        with pytest.raises(OSError, match="killed"):
            reprocess(systems(rides.books), look(systems(rides.books), WINDOW), lambda: None)
    run(rides.books)
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


def test_sigkill_within_a_transaction(rides: Rides, tmp_path: Path) -> None:
    mark = tmp_path / "blocked"
    names = {name.upper(): value for name, value in rides.books.names.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(mark), FROM, TO], cwd=ROOT, env={**os.environ, **names}
    )
    try:
        until(lambda: mark.exists() or process.poll() is not None, "it is at its 17th copy", within_s=60)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert rides.books.ledger().exit_code == 2
    done = run(rides.books)
    assert (done.rides, done.copies) == (30, 34)
    rides.check()


def test_a_second_worker_fences_the_first(rides: Rides, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is asleep with copies sent and not committed; meanwhile the second does all the work."""
    from jobs.errors import ServiceUnavailableError

    books, send = rides.books, GroupWriter.send

    def asleep(writer: GroupWriter, *arguments: Any) -> None:
        monkeypatch.setattr(GroupWriter, "send", send)
        assert run(books).copies == 34
        send(writer, *arguments)

    monkeypatch.setattr(GroupWriter, "send", asleep)
    with pytest.raises(ServiceUnavailableError, match="a newer worker has taken over"):
        reprocess(systems(books), look(systems(books), WINDOW), lambda: None)
    rides.check()


def test_plans_are_small_enough_for_an_offset() -> None:
    """Kafka takes 4,096 bytes of metadata (offset.metadata.max.bytes)."""
    ends = module.positions_text(dict.fromkeys(range(200), 10**12))
    plan = msgspec.json.encode(module.Plan(WINDOW, 10**12, 10**12, ends))
    assert len(encode_metadata("zbwYara2T1+hraYqPqBAhg", plan)) < 4096
