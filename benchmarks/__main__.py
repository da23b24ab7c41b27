"""Measures the pipeline and its peers: `make bench`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks import aims, freshness, marts, poison, scale, warehouse, watching
from benchmarks.bench import SINKS, Bench, Result, compute_ratio
from benchmarks.candidates import CANDIDATES, OURS
from benchmarks.data import fill
from benchmarks.layouts import COMPACT, LAYOUTS
from benchmarks.machine import describe_machine
from benchmarks.measure import FailedError
from benchmarks.stacks import make_console, start_stack
from jobs.errors import DatastreamError
from jobs.settings import Settings, load

console = make_console()

# These start their own services.
SEPARATE = ("load", "dbt", "watching", "freshness")
PARTS = ("price", *SINKS, "scale", "poison", *SEPARATE)


class Measurements(msgspec.Struct):
    """All measurements, and why parts or peers were left out."""

    results: list[Result] = msgspec.field(default_factory=list)
    scale: scale.Scale | None = None
    poison: poison.Poison | None = None
    load: warehouse.Warehouse | None = None
    dbt: marts.Marts | None = None
    watching: watching.Watching | None = None
    freshness: freshness.Freshness | None = None
    left_out: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def ratios(self) -> dict[aims.Peer, float | None]:
        results = self.results
        return {(result.part, result.layout, result.name): compute_ratio(result, results) for result in results}

    @property
    def aims(self) -> list[aims.Aim]:
        ours = [
            result for result in self.results if (result.name, result.layout) == (OURS, COMPACT) and result.is_whole
        ]
        all_aims = aims.make_result_aims(ours[0].rate if ours else None, self.ratios)
        all_aims += aims.make_scale_aims(self.scale) if self.scale else []
        all_aims += aims.make_poison_aims(self.poison) if self.poison else []
        all_aims += aims.make_warehouse_aims(self.load) if self.load else []
        all_aims += aims.make_marts_aims(self.dbt) if self.dbt else []
        all_aims += aims.make_watching_aims(self.watching) if self.watching else []
        return all_aims + (aims.make_freshness_aims(self.freshness) if self.freshness else [])


def main(
    *,
    rides: Annotated[
        int, typer.Option(help="Messages in rides_raw and in shop_transactions, rows for dbt.", min=1)
    ] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Passes of each candidate, in turn.", min=1)] = 3,
    faulty: Annotated[float, typer.Option(help="Share of invalid messages.", min=0, max=1)] = 0.01,
    part: Annotated[
        list[str] | None, typer.Option(help=f"Part to measure, repeatable: {', '.join(PARTS)}. Default: all.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Peer in pricing, repeatable: {', '.join(CANDIDATES)}. Default: all.")
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option(help=f"JSON layout of the rides to price, repeatable: {', '.join(LAYOUTS)}. Default: all."),
    ] = None,
    largest: Annotated[int, typer.Option(help="scale: largest number of rides.", min=scale.SIZES[0])] = scale.SIZES[-1],
    seconds: Annotated[int, typer.Option(help="freshness: seconds to measure.", min=10)] = 180,
    rate: Annotated[int, typer.Option(help="freshness: rides per second.", min=1)] = 1000,
    warm_up: Annotated[int, typer.Option(help="freshness: seconds of warm-up, not measured.", min=0)] = 60,
) -> None:
    """Measure, print tables and write .local/bench.json.

    All parts except load, dbt, watching and freshness share one broker and its rides. These start their own services.
    """
    parts, peers, layouts = part or PARTS, peer or CANDIDATES, layout or LAYOUTS
    for names, known in ((parts, PARTS), (peers, CANDIDATES), (layouts, LAYOUTS)):
        if unknown := sorted(set(names) - set(known)):
            raise typer.BadParameter(f"unknown: {', '.join(unknown)}; use {', '.join(known)}")
    measurements = Measurements()
    conditions = {"rides": rides, "faulty": faulty, "rounds": rounds, "machine": describe_machine()}
    if {*parts} - {*SEPARATE}:
        # The sinks need the results of one layout only.
        layouts = [name for name in LAYOUTS if name in layouts] if "price" in parts else [COMPACT]
        _measure_on_one_broker(
            measurements, parts, peers, layouts, rides=rides, rounds=rounds, faulty=faulty, largest=largest
        )
        path = _write(measurements, conditions)
    if "load" in parts:
        try:
            with make_progress() as bars:
                measurements.load = warehouse.measure(console, bars, rounds, rides)
        except FailedError as error:
            measurements.left_out["load"] = str(error)
        path = _write(measurements, conditions)
    if "dbt" in parts:
        try:
            measurements.dbt = marts.measure(console, rides)
        except (FailedError, DatastreamError) as error:
            measurements.left_out["dbt"] = str(error)
        path = _write(measurements, conditions)
    if "watching" in parts:
        try:
            with make_progress() as bars:
                measurements.watching = watching.measure(console, bars, rounds, rides)
        except (FailedError, DatastreamError) as error:
            measurements.left_out["watching"] = str(error)
        path = _write(measurements, conditions)
    if "freshness" in parts:
        try:
            measurements.freshness = freshness.measure(console, seconds, rate, warm_up)
        except FailedError as error:
            measurements.left_out["freshness"] = str(error)
        path = _write(measurements, conditions)
    _print(measurements)
    console.print(
        f"{faulty:.0%} of {rides:,} messages are invalid; medians of {rounds} passes. Wrote {path}", soft_wrap=True
    )
    measured = [result for result in measurements.results if result.name not in measurements.left_out]
    if {*measurements.left_out} & {*PARTS} or not all(result.is_whole for result in measured):
        raise typer.Exit(1)


def _measure_on_one_broker(
    measurements: Measurements,
    parts: Collection[str],
    peers: Collection[str],
    layouts: list[str],
    *,
    rides: int,
    rounds: int,
    faulty: float,
    largest: int,
) -> None:
    # Datastream always runs: the others are compared with it, and the sinks read its results.
    candidates = [
        candidate for name, candidate in CANDIDATES.items() if name == OURS or (name in peers and "price" in parts)
    ]
    sinks = [name for name in SINKS if name in parts]
    services = ("kafka", "elasticsearch", "gcs") if sinks else ("kafka",)
    with start_stack(services, console) as settings, make_progress() as bars:
        fill(settings, rides, faulty)
        if sinks or "price" in parts:
            bench = Bench(settings, bars, rounds)
            measurements.results, measurements.left_out = bench.results, bench.left_out
            topic = bench.price(candidates, rides, layouts)
            if sinks:
                bench.measure_sinks(topic, sinks)
        if "scale" in parts:
            try:
                measurements.scale = scale.measure(settings, bars, rounds, largest)
            except FailedError as error:
                measurements.left_out["scale"] = str(error)
        if "poison" in parts:
            try:
                measurements.poison = poison.measure(settings, bars, rounds)
            except FailedError as error:
                measurements.left_out["poison"] = str(error)


def make_progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def _write(measurements: Measurements, conditions: dict[str, object]) -> Path:
    document = {
        **conditions,
        **msgspec.to_builtins(measurements, str_keys=True),
        "results": [
            {**msgspec.to_builtins(result), "ratio": compute_ratio(result, measurements.results)}
            for result in measurements.results
        ],
        "aims": [{**msgspec.to_builtins(aim), "reached": aim.reached} for aim in measurements.aims],
    }
    path = load(Settings).datastream_state / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _print(measurements: Measurements) -> None:
    if measurements.results:
        _print_results(measurements.results)
    if measurements.scale:
        scale.show(measurements.scale, console)
    if measurements.poison:
        poison.show(measurements.poison, console)
    if measurements.load:
        warehouse.show(measurements.load, console)
    if measurements.dbt:
        marts.show(measurements.dbt, console)
    if measurements.watching:
        watching.show(measurements.watching, console)
    if measurements.freshness:
        freshness.show(measurements.freshness, console)
    aims.show(measurements.aims, console)
    for name, why in measurements.left_out.items():
        console.print(f"Left out {name}: {escape(why)}", soft_wrap=True)


def _print_results(results: list[Result]) -> None:
    right = ("messages", "per second", "CPU s per million", "peak MiB", "datastream is")
    table = Table("part", "candidate", "layout", "guarantee", *(Column(name, justify="right") for name in right))
    last = results[0].part, results[0].layout
    for result in results:
        if (result.part, result.layout) != last:
            table.add_section()
            last = result.part, result.layout
        if not result.passes:
            table.add_row(result.part, result.name, result.layout, "left out: see below")
            continue
        factor = compute_ratio(result, results)
        counts = sorted({measured.messages for measured in result.passes})
        table.add_row(
            result.part,
            result.name,
            result.layout,
            result.guarantee,
            ", ".join(f"{count:,}" for count in counts),
            f"{result.rate:,.0f}",
            f"{result.median(lambda measured: measured.cpu_seconds / measured.messages * 1e6):.1f}",
            f"{result.median(lambda measured: measured.peak_mib):,.0f}",
            f"{factor:.2f} × as fast" if factor else f"no ratio: {result.expected:,} expected",
        )
    console.print(table)
    for ours in (result for result in results if result.name == OURS and result.passes):
        seconds = {
            task: statistics.median(measured.by_task[task] for measured in ours.passes)
            for task in ours.passes[0].by_task
        }
        tasks = (f"{task} {spent:.2f} s" for task, spent in seconds.items())
        console.print(f"{ours.name}, {ours.layout}: {', '.join(tasks)}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
