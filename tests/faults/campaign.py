"""Rounds of faults: each strikes every target once, lets the flow run dry and compares everything."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from tests.faults import tasks
from tests.faults.audit import Books, changed
from tests.faults.faults import Struck, Target
from tests.faults.ground import PATIENCE_S, Ground, StoppedError
from tests.faults.reading import TopicReader, checksums, documents, rows, versions
from tests.faults.tasks import Glimpse

# Rides flow for a moment before the first fault of a round.
WARM_UP_S = 5


class Progress(Protocol):
    """Told what happens, and how many faults are done with."""

    def __call__(self, what: str, done: int = 0, /) -> None: ...


class Hit(msgspec.Struct):
    """A fault that struck, its proof, and how long the flow took to get over it."""

    target: str
    at: str
    what: str
    glimpses: list[Glimpse]
    details: dict[str, Any]
    recovered_s: float
    airflow: dict[str, list[dict[str, Any]]]
    logs: dict[str, list[str]]


class Round(msgspec.Struct):
    """What a round added and found; `differences` say what a system lost, doubled or changed."""

    seed: int
    seconds: float
    hits: list[Hit]
    sent: int
    good: int
    bad: int
    results: int
    dead_letters: int
    documents: int
    rows: int
    ledger: str
    orphaned_workers: int
    differences: list[str]


class Campaign:
    """Plays rounds on one ground; what was compared in one is taken for granted in the next."""

    def __init__(self, ground: Ground, progress: Progress) -> None:
        self.ground = ground
        self.hits: list[Hit] = []
        self._progress = progress
        self._books = Books(ground.direct.raw_topic, ground.direct.result_topic)
        topics = (ground.direct.raw_topic, ground.direct.result_topic, ground.direct.dlq_topic)
        self._readers = [TopicReader(ground.kafka, topic) for topic in topics]
        self._objects: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def play(self, seed: int, targets: Sequence[Target]) -> Round:
        """One round: the faults that hold up one DAG only beside those of the other, then those of both."""
        began = time.monotonic()
        self.hits = []
        rng = random.Random(seed)
        self.ground.feed.resume()
        self.ground.pause(WARM_UP_S)
        shuffled = rng.sample(targets, len(targets))
        lanes = [
            [(target, random.Random(f"{seed}:{target.name}")) for target in shuffled if target.lane == lane]
            for lane in ("compute", "index", "both")
        ]
        with ThreadPoolExecutor(2) as pool, self._stopping():
            played = wait([pool.submit(self._lane, some) for some in lanes[:2]])
        failures = [error for lane in played.done if (error := lane.exception()) is not None]
        # A fault in one lane stops the other, too.
        for error in sorted(failures, key=lambda it: isinstance(it, StoppedError)):
            raise error
        self._lane(lanes[2])
        return self._compare(seed, began)

    def _lane(self, faults: list[tuple[Target, random.Random]]) -> None:
        with self._stopping():
            for target, rng in faults:
                self.hits.append(self._strike(target, rng))

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Whatever goes wrong here (Ctrl-C, too) ends the waiting everywhere."""
        try:
            yield
        except BaseException:
            self.ground.stopped.set()
            raise

    def _strike(self, target: Target, rng: random.Random) -> Hit:
        self._progress(f"{target.name}: waiting for its moment")
        struck = target.strike(self.ground, rng)
        self._progress(f"{target.name}: {struck.what}")
        seconds = self._recovered(target, struck)
        self._progress(f"{target.name}: over it after {seconds:.1f} s", 1)
        return Hit(
            target=target.name,
            at=(datetime.now(UTC) - timedelta(seconds=time.monotonic() - struck.mark.at)).isoformat(timespec="seconds"),
            what=struck.what,
            glimpses=struck.glimpses,
            details=struck.details,
            recovered_s=round(seconds, 1),
            airflow={it.name: self.ground.airflow.tries(*it.key) for it in struck.hit},
            logs={it.name: tasks.told(it.log) for it in struck.hit},
        )

    def _recovered(self, target: Target, struck: Struck) -> float:
        """Seconds until all that had been sent (or, for the second DAG alone, published) was at its place."""
        prices, sinks = target.lane != "index", target.lane != "compute"
        found: list[float] = []

        def recovered() -> bool:
            seconds = self.ground.watch.recovered(struck.mark, prices=prices, sinks=sinks)
            if seconds is not None:
                found.append(seconds)
            return bool(found)

        self.ground.until(recovered, f"what was there at {struck.what} did not reach its place", PATIENCE_S)
        return found[0]

    def _compare(self, seed: int, began: float) -> Round:
        ground, books = self.ground, self._books
        self._progress("letting the flow run dry")
        ground.feed.pause()
        books.differences = [f"not delivered: {failure}" for failure in ground.feed.failures]
        waited = ground.jobs("wait", "--timeout", "600")
        if waited.returncode:
            books.differences.append(f"python -m jobs wait: {waited.stderr[-500:]}")
        self._progress("comparing every message, ride and row")
        before = self._counts
        books.send(ground.feed.acknowledged)
        raw, results, letters = (reader.new() for reader in self._readers)
        books.check_raw(raw)
        books.check_results(results)
        books.check_dead_letters(letters)
        index, prefix = ground.direct.rides_index, ground.direct.gcs_prefix
        fresh = sorted(books.fresh_rides())
        books.check_documents(fresh, documents(ground.elasticsearch, index, fresh))
        held = versions(ground.elasticsearch, index)
        books.check_versions(held)
        objects = checksums(ground.gcs, ground.direct.bucket, prefix)
        books.differences += changed(self._objects, objects)
        books.check_rows(rows(ground.gcs, ground.direct.bucket, sorted(objects.keys() - self._objects.keys())))
        self._objects = objects
        faulty = sum(message.fault is not None for message in books.sent.values())
        self._counts = {
            "sent": len(books.sent), "good": len(books.sent) - faulty, "bad": faulty, "results": len(books.results),
            "dead_letters": len(books.buried), "documents": len(held), "rows": len(books.rows),
        }  # fmt: skip
        ledger = ground.jobs("ledger")
        if ledger.returncode:
            books.differences.append(f"python -m jobs ledger ended with {ledger.returncode}: {ledger.stdout[-1000:]}")
        return Round(
            seed=seed,
            seconds=round(time.monotonic() - began, 1),
            hits=self.hits,
            **{name: count - before.get(name, 0) for name, count in self._counts.items()},
            ledger=ledger.stdout.splitlines()[-1] if ledger.stdout else ledger.stderr[-200:],
            orphaned_workers=len(tasks.orphans(ground.settings, ground.tasks.scheduler())),
            differences=books.differences,
        )
