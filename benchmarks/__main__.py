"""Measures what moves rides beside its peers, on one broker and the same data: `make bench`."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow.parquet as pq
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.candidates import CANDIDATES, OURS, Candidate, Pass, UnavailableError, airflow_environment, compete
from benchmarks.data import drop, fill
from benchmarks.machine import machine
from benchmarks.measure import FailedError, Measured, run
from benchmarks.stacks import own_stack, wide_console
from jobs import settings as configuration
from jobs.clients import elasticsearch_admin, kafka_config, storage_client
from jobs.rides.index import TEMPLATE
from jobs.settings import Settings
from jobs.sinks.elasticsearch import apply_template

console = wide_console()

PARTS = ("price", "index", "export")
_WARM_UPS = 4
# What each part is compared with, ours first.
SINKS = {
    "index": {"put": "PutElasticSearch", "put_bare": "bare client"},
    "export": {
        "write_rows": "rows to Parquet, without a storage",
        "export_to_nowhere": "PutGCP, without a storage",
        "export": "PutGCP, emulator",
        "write_table": "pyarrow, our options, local file",
        "write_table_with_defaults": "pyarrow, its defaults, local file",
    },
}


class Result(msgspec.Struct):
    """All passes of one candidate, each of which should have moved `expected` messages."""

    part: str
    name: str
    guarantee: str
    expected: int
    passes: list[Pass] = msgspec.field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return bool(self.passes) and all(it.messages == self.expected for it in self.passes)

    @property
    def rate(self) -> float:
        """Messages a second: the median."""
        return self.median(lambda it: it.messages / it.seconds)

    def median(self, figure: Callable[[Pass], float]) -> float:
        return statistics.median(map(figure, self.passes))


class Bench:
    """One run on one stack."""

    def __init__(self, settings: Settings, progress: Progress, rounds: int) -> None:
        self.settings = settings
        self.rounds = rounds
        self.results: list[Result] = []
        self.left_out: dict[str, str] = {}
        self._progress = progress

    def price(self, candidates: list[Candidate], rides: int) -> str:
        """Price rides_raw by each candidate; the topic with our results."""
        # A new broker has its internal topics to make, and its JVM has code to compile: its third pass costs it half.
        for number in range(_WARM_UPS):
            self._price(CANDIDATES["relay"], rides, f"warm-up-{number}")
        results = {it.name: Result("price", it.name, it.guarantee, min(rides, it.at_most)) for it in candidates}
        self.results += results.values()
        bar = self._progress.add_task("price", total=self.rounds * len(candidates))
        kept = ""
        for number in range(1, self.rounds + 1):
            for candidate in candidates:
                self._progress.update(bar, description=f"price: {candidate.name}")
                if candidate.name not in self.left_out:
                    target = f"{candidate.name}-{number}"
                    try:
                        found = self._price(candidate, results[candidate.name].expected, target)
                    except (UnavailableError, FailedError) as error:
                        self.left_out[candidate.name] = str(error)
                        self._progress.console.print(f"{candidate.name} is left out: {escape(str(error))}")
                    else:
                        self._note(results[candidate.name], found, number)
                        if candidate.name == OURS:
                            drop(kafka_config(self.settings), [kept] if kept else [])
                            kept = target
                self._progress.advance(bar)
        return kept

    def _price(self, candidate: Candidate, rides: int, target: str) -> Pass:
        # Our results are what the sinks are measured with.
        return compete(self.settings, candidate, self.settings.raw_topic, rides, target, keep=candidate.name == OURS)

    def sinks(self, topic: str, parts: list[str]) -> None:
        """Index and export the results of a topic."""
        folder = self.settings.datastream_state / "staging" / "sinks"
        folder.mkdir(parents=True)
        job = {"settings": self.settings.model_dump(mode="json"), "topic": topic, "folder": str(folder)}
        staged, transformed, rows = self._sink("prepare", job).answer
        job |= {"staged": staged, "transformed": transformed}
        for part in parts:
            works = SINKS[part]
            results = {work: Result(part, name, "", int(rows)) for work, name in works.items()}
            self.results += results.values()
            bar = self._progress.add_task(part, total=self.rounds * len(works))
            if part == "index":
                self._sink_pass("put_bare", job, 0)  # a new node's JVM has code to compile
            for number in range(1, self.rounds + 1):
                for work in works:
                    self._progress.update(bar, description=f"{part}: {works[work]}")
                    self._note(results[work], self._sink_pass(work, job, number), number)
                    self._progress.advance(bar)

    def _sink_pass(self, work: str, job: dict[str, Any], number: int) -> Pass:
        name = f"bench-{work.replace('_', '-')}-{number}"
        if work in SINKS["index"]:
            apply_template(elasticsearch_admin(self.settings), name, TEMPLATE)
        measured = self._sink(work, job | {"name": name})
        return Pass.of(self._held(work, name, Path(job["folder"]), measured), [(work, measured)])

    def _sink(self, work: str, job: dict[str, Any]) -> Measured:
        environment = airflow_environment(self.settings.datastream_state)
        return run("benchmarks.sinks", work, json.dumps(job), environment=environment)

    def _held(self, work: str, name: str, folder: Path, measured: Measured) -> int:
        """How many rows the target holds; what is counted is deleted."""
        if work in SINKS["index"]:
            client = elasticsearch_admin(self.settings)
            client.indices.refresh(index=name)
            documents: int = client.count(index=name)["count"]
            client.indices.delete(index=name)
            client.indices.delete_index_template(name=name)
            return documents
        if work == "export":
            blobs = storage_client(self.settings).list_blobs(self.settings.bucket, prefix=f"{name}/")
            return sum(pq.read_metadata(io.BytesIO(blob.download_as_bytes())).num_rows for blob in blobs)
        if work.startswith("write_table"):
            file = folder / f"{name}.parquet"
            rows: int = pq.read_metadata(file).num_rows
            file.unlink()
            return rows
        return int(measured.answer)

    def _note(self, result: Result, found: Pass, number: int) -> None:
        result.passes.append(found)
        self._progress.console.print(
            f"{result.part}: {result.name} {number}/{self.rounds}: {found.messages:,} in {found.seconds:.2f} s, "
            f"{found.messages / found.seconds:,.0f}/s, {found.peak_mib:.0f} MiB"
        )


def main(
    *,
    rides: Annotated[int, typer.Option(help="Messages in rides_raw.", min=1)] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Passes of each, in turn.", min=1)] = 3,
    faulty: Annotated[float, typer.Option(help="Share of bad messages.", min=0, max=1)] = 0.01,
    part: Annotated[
        list[str] | None, typer.Option(help=f"What to measure; repeat for several: {', '.join(PARTS)}.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Who competes in pricing; repeat for several: {', '.join(CANDIDATES)}.")
    ] = None,
) -> None:
    """Measure, print a table, write .local/bench.json."""
    parts, peers = part or PARTS, peer or CANDIDATES
    for names, known in ((parts, PARTS), (peers, CANDIDATES)):
        if unknown := sorted(set(names) - set(known)):
            raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(known)}")
    # Ours is what all are compared with, and what the sinks work on.
    candidates = [it for name, it in CANDIDATES.items() if name == OURS or (name in peers and "price" in parts)]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    sinks = [it for it in SINKS if it in parts]
    services = ("kafka", "elasticsearch", "gcs") if sinks else ("kafka",)
    with own_stack(services, console) as settings, Progress(*columns, console=console) as bars:
        bench = Bench(settings, bars, rounds)
        fill(settings, rides, faulty)
        results = bench.price(candidates, rides)
        if sinks:
            bench.sinks(results, sinks)
    document = {
        "rides": rides,
        "faulty": faulty,
        "rounds": rounds,
        "machine": machine(),
        "left_out": bench.left_out,
        "results": [{**msgspec.to_builtins(it), "ratio": ratio(it, bench.results)} for it in bench.results],
    }
    path = configuration.load().datastream_state / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    _print(bench.results, bench.left_out)
    console.print(f"{faulty:.0%} of {rides:,} rides are bad; medians of {rounds}. Wrote {path}", soft_wrap=True)
    if not all(it.is_whole for it in bench.results if it.name not in bench.left_out):
        raise typer.Exit(1)


def ratio(result: Result, results: list[Result]) -> float | None:
    """How many times faster ours is in the same part; None unless both moved all that they were given."""
    ours = next(it for it in results if it.part == result.part)
    return ours.rate / result.rate if ours.is_whole and result.is_whole else None


def _print(results: list[Result], left_out: dict[str, str]) -> None:
    right = ("messages", "a second", "CPU s per million", "peak MiB", "ours is")
    table = Table("", "", "guarantee", *(Column(name, justify="right") for name in right))
    last = results[0].part
    for result in results:
        if result.part != last:
            table.add_section()
            last = result.part
        if not result.passes:
            table.add_row(result.part, result.name, "left out: see below")
            continue
        found = ratio(result, results)
        counts = sorted({it.messages for it in result.passes})
        table.add_row(
            result.part,
            result.name,
            result.guarantee,
            ", ".join(f"{count:,}" for count in counts),
            f"{result.rate:,.0f}",
            f"{result.median(lambda it: it.cpu_seconds / it.messages * 1e6):.1f}",
            f"{result.median(lambda it: it.peak_mib):,.0f}",
            f"{found:.2f} ×" if found else f"no ratio: {result.expected:,} expected",
        )
    console.print(table)
    for name, why in left_out.items():
        console.print(f"{name} is left out: {escape(why)}", soft_wrap=True)
    ours = results[0]
    seconds = {task: statistics.median(it.by_task[task] for it in ours.passes) for task in ours.passes[0].by_task}
    tasks = (f"{task} {spent:.2f} s" for task, spent in seconds.items())
    console.print(f"{ours.name}: {', '.join(tasks)}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
