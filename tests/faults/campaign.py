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
from tests.faults.audit import Audit, changed
from tests.faults.environment import PATIENCE_S, Environment, StoppedError
from tests.faults.faults import Struck, Target
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
    """Plays rounds on one environment; what was compared in one is taken for granted in the next."""

    def __init__(self, environment: Environment, progress: Progress) -> None:
        self.environment = environment
        self.hits: list[Hit] = []
        self._progress = progress
        self._audit = Audit(environment.direct.raw_topic, environment.direct.result_topic)
        topics = (environment.direct.raw_topic, environment.direct.result_topic, environment.direct.dlq_topic)
        self._readers = [TopicReader(environment.kafka, topic) for topic in topics]
        self._objects: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def play(self, seed: int, targets: Sequence[Target]) -> Round:
        """Play one round: faults that delay one DAG, those of the other at the same time, then faults of both."""
        began = time.monotonic()
        self.hits = []
        rng = random.Random(seed)
        self.environment.feed.resume()
        self.environment.pause(WARM_UP_S)
        shuffled = rng.sample(targets, len(targets))
        lanes = [
            [(target, random.Random(f"{seed}:{target.name}")) for target in shuffled if target.lane == lane]
            for lane in ("compute", "index", "both")
        ]
        with ThreadPoolExecutor(2) as pool, self._stopping():
            played = wait([pool.submit(self._lane, some) for some in lanes[:2]])
        failures = [error for lane in played.done if (error := lane.exception()) is not None]
        # A fault in one lane stops the other, too.
        for error in sorted(failures, key=lambda error: isinstance(error, StoppedError)):
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
            self.environment.stopped.set()
            raise

    def _strike(self, target: Target, rng: random.Random) -> Hit:
        self._progress(f"{target.name}: waiting for its moment")
        struck = target.strike(self.environment, rng)
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
            airflow={task.name: self.environment.airflow.tries(*task.key) for task in struck.hit},
            logs={task.name: tasks.told(task.log) for task in struck.hit},
        )

    def _recovered(self, target: Target, struck: Struck) -> float:
        """Seconds until all that had been sent (or, for the second DAG alone, published) was at its place."""
        prices, sinks = target.lane != "index", target.lane != "compute"
        recovery: list[float] = []

        def recovered() -> bool:
            seconds = self.environment.watch.recovered(struck.mark, prices=prices, sinks=sinks)
            if seconds is not None:
                recovery.append(seconds)
            return bool(recovery)

        self.environment.until(recovered, f"what was there at {struck.what} did not reach its place", PATIENCE_S)
        return recovery[0]

    def _compare(self, seed: int, began: float) -> Round:
        environment, audit = self.environment, self._audit
        self._progress("letting the flow run dry")
        environment.feed.pause()
        audit.differences = [f"not delivered: {failure}" for failure in environment.feed.failures]
        waited = environment.jobs("wait", "--timeout", "600")
        if waited.returncode:
            audit.differences.append(f"python -m jobs wait: {waited.stderr[-500:]}")
        self._progress("comparing every message, ride and row")
        before = self._counts
        audit.send(environment.feed.acknowledged)
        raw, results, letters = (reader.new() for reader in self._readers)
        audit.check_raw(raw)
        audit.check_results(results)
        audit.check_dead_letters(letters)
        index, prefix = environment.direct.rides_index, environment.direct.gcs_prefix
        fresh = sorted(audit.fresh_rides())
        audit.check_documents(fresh, documents(environment.elasticsearch, index, fresh))
        held = versions(environment.elasticsearch, index)
        audit.check_versions(held)
        objects = checksums(environment.gcs, environment.direct.bucket, prefix)
        audit.differences += changed(self._objects, objects)
        audit.check_rows(
            rows(environment.gcs, environment.direct.bucket, sorted(objects.keys() - self._objects.keys()))
        )
        self._objects = objects
        faulty = sum(message.fault is not None for message in audit.sent.values())
        self._counts = {
            "sent": len(audit.sent), "good": len(audit.sent) - faulty, "bad": faulty, "results": len(audit.results),
            "dead_letters": len(audit.buried), "documents": len(held), "rows": len(audit.rows),
        }  # fmt: skip
        ledger = environment.jobs("ledger")
        if ledger.returncode:
            audit.differences.append(f"python -m jobs ledger ended with {ledger.returncode}: {ledger.stdout[-1000:]}")
        return Round(
            seed=seed,
            seconds=round(time.monotonic() - began, 1),
            hits=self.hits,
            **{name: count - before.get(name, 0) for name, count in self._counts.items()},
            ledger=ledger.stdout.splitlines()[-1] if ledger.stdout else ledger.stderr[-200:],
            orphaned_workers=len(tasks.orphans(environment.settings, environment.tasks.scheduler())),
            differences=audit.differences,
        )
