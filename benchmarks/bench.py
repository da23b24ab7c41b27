"""Measures pricing, indexing and exporting against their peers, on one broker and with the same rides."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
from rich.markup import escape
from rich.progress import Progress

from benchmarks.candidates import (
    CANDIDATES,
    OURS,
    RELAY,
    Candidate,
    Pass,
    UnavailableError,
    compete,
    make_airflow_environment,
)
from benchmarks.data import drop, rewrite
from benchmarks.layouts import COMPACT
from benchmarks.measure import FailedError, Measured, run
from jobs.clients import make_elasticsearch_admin, make_kafka_config, make_storage_client
from jobs.rides.vertical import TEMPLATE, RidesSettings
from jobs.sinks.elasticsearch import apply_template

_WARM_UPS = 2
# The candidates of each part, Datastream first: function of benchmarks.sinks, name in the tables.
SINKS = {
    "index": {"put": "PutElasticSearch", "put_bare": "bare client"},
    "export": {
        "write_rows": "rows to Parquet, without storage",
        "export_to_nowhere": "PutGCP, without storage",
        "export": "PutGCP, emulator",
        "write_table": "pyarrow, our options, local file",
        "write_table_with_defaults": "pyarrow, its defaults, local file",
    },
}


class Result(msgspec.Struct):
    """All passes of one candidate. Each should move `expected` messages.

    `layout` is the layout of the priced rides; empty in other parts.
    """

    part: str
    name: str
    guarantee: str
    expected: int
    passes: list[Pass] = msgspec.field(default_factory=list)
    layout: str = ""

    @property
    def is_whole(self) -> bool:
        return bool(self.passes) and all(measured.messages == self.expected for measured in self.passes)

    @property
    def rate(self) -> float:
        """Messages per second, the median of all passes."""
        return self.median(lambda measured: measured.rate)

    def median(self, figure: Callable[[Pass], float]) -> float:
        return statistics.median(map(figure, self.passes))


class Bench:
    """One benchmark run on one stack."""

    def __init__(self, settings: RidesSettings, progress: Progress, rounds: int) -> None:
        self.settings = settings
        self.rounds = rounds
        self.results: list[Result] = []
        self.left_out: dict[str, str] = {}
        self._progress = progress

    def price(self, candidates: list[Candidate], rides: int, layouts: list[str]) -> str:
        """Price rides_raw in each layout with each candidate. Returns the topic with Datastream's first results.

        Peers other than the relay price the producer's layout only.
        """
        # A new broker creates its internal topics and compiles its code: the third pass takes half of its CPU time.
        for number in range(_WARM_UPS):
            for name in (RELAY, OURS):
                target = f"warm-up-{name}-{number}"
                compete(self.settings, CANDIDATES[name], self.settings.raw_topic, rides, target, keep=False)
        kept = [self._price_layout(layout, select_candidates(candidates, layout), rides) for layout in layouts]
        drop(make_kafka_config(self.settings), [topic for topic in kept[1:] if topic])
        return kept[0]

    def _price_layout(self, layout: str, candidates: list[Candidate], rides: int) -> str:
        source = self.settings.raw_topic
        if layout != COMPACT:
            source = f"{source}-{layout}"
            rewrite(self.settings, source, layout)
        results = {
            candidate.name: Result(
                "price", candidate.name, candidate.guarantee, min(rides, candidate.at_most), layout=layout
            )
            for candidate in candidates
        }
        self.results += results.values()
        bar = self._progress.add_task(f"price, {layout}", total=self.rounds * len(candidates))
        kept = ""
        for number in range(1, self.rounds + 1):
            for candidate in candidates:
                self._progress.update(bar, description=f"price, {layout}: {candidate.name}")
                if candidate.name not in self.left_out:
                    target = f"{candidate.name}-{layout}-{number}"
                    try:
                        measured = self._price_pass(candidate, source, results[candidate.name].expected, target)
                    except (UnavailableError, FailedError) as error:
                        self.left_out[candidate.name] = str(error)
                        self._progress.console.print(f"Left out {candidate.name}: {escape(str(error))}")
                    else:
                        self._record(results[candidate.name], measured, number)
                        if candidate.name == OURS:
                            drop(make_kafka_config(self.settings), [kept] if kept else [])
                            kept = target
                self._progress.advance(bar)
        if source != self.settings.raw_topic:
            drop(make_kafka_config(self.settings), [source])
        return kept

    def _price_pass(self, candidate: Candidate, source: str, rides: int, target: str) -> Pass:
        # The sinks read Datastream's results.
        return compete(self.settings, candidate, source, rides, target, keep=candidate.name == OURS)

    def measure_sinks(self, topic: str, parts: list[str]) -> None:
        """Index and export the results of a topic."""
        folder = self.settings.datastream_state / "staging" / "sinks"
        folder.mkdir(parents=True)
        job = {"settings": self.settings.model_dump(mode="json"), "topic": topic, "folder": str(folder)}
        staged, transformed, rows = self._run_sink("prepare", job).answer
        job |= {"staged": staged, "transformed": transformed}
        for part in parts:
            works = SINKS[part]
            results = {work: Result(part, name, "", int(rows)) for work, name in works.items()}
            self.results += results.values()
            bar = self._progress.add_task(part, total=self.rounds * len(works))
            if part == "index":
                self._run_sink_pass("put_bare", job, 0)  # warm up: the JVM of a new node compiles its code
            for number in range(1, self.rounds + 1):
                for work in works:
                    self._progress.update(bar, description=f"{part}: {works[work]}")
                    self._record(results[work], self._run_sink_pass(work, job, number), number)
                    self._progress.advance(bar)

    def _run_sink_pass(self, work: str, job: dict[str, Any], number: int) -> Pass:
        name = f"bench-{work.replace('_', '-')}-{number}"
        if work in SINKS["index"]:
            apply_template(make_elasticsearch_admin(self.settings), name, TEMPLATE)
        measured = self._run_sink(work, job | {"name": name})
        return Pass.from_tasks(self._count_rows(work, name, Path(job["folder"]), measured), [(work, measured)])

    def _run_sink(self, work: str, job: dict[str, Any]) -> Measured:
        environment = make_airflow_environment(self.settings.datastream_state)
        return run("benchmarks.sinks", work, json.dumps(job), environment=environment)

    def _count_rows(self, work: str, name: str, folder: Path, measured: Measured) -> int:
        """Count the rows in the target, and delete it."""
        if work in SINKS["index"]:
            client = make_elasticsearch_admin(self.settings)
            client.indices.refresh(index=name)
            documents: int = client.count(index=name)["count"]
            client.indices.delete(index=name)
            client.indices.delete_index_template(name=name)
            return documents
        if work == "export":
            blobs = make_storage_client(self.settings).list_blobs(self.settings.bucket, prefix=f"{name}/")
            return sum(pq.read_metadata(io.BytesIO(blob.download_as_bytes())).num_rows for blob in blobs)
        if work.startswith("write_table"):
            file = folder / f"{name}.parquet"
            rows: int = pq.read_metadata(file).num_rows
            file.unlink()
            return rows
        return int(measured.answer)

    def _record(self, result: Result, measured: Pass, number: int) -> None:
        result.passes.append(measured)
        self._progress.console.print(
            f"{result.part}: {f'{result.layout} ' if result.layout else ''}{result.name} {number}/{self.rounds}: "
            f"{measured.messages:,} in {measured.seconds:.2f} s, "
            f"{measured.rate:,.0f}/s, {measured.peak_mib:.0f} MiB"
        )


def select_candidates(candidates: list[Candidate], layout: str) -> list[Candidate]:
    """The candidates that price a layout: all for the producer's, only Datastream and the relay for others."""
    return [candidate for candidate in candidates if layout == COMPACT or candidate.name in (OURS, RELAY)]


def compute_ratio(result: Result, results: list[Result]) -> float | None:
    """Datastream's speed relative to a candidate's in the same part and layout; None unless both moved all messages.

    It is the median of the ratios of each round, because a change in the machine's speed affects both in a round.
    """
    ours = next(other for other in results if (other.part, other.layout) == (result.part, result.layout))
    if not (ours.is_whole and result.is_whole):
        return None
    return statistics.median(mine.rate / theirs.rate for mine, theirs in zip(ours.passes, result.passes, strict=False))
