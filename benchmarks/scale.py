"""Time and memory of dag_compute_cost's tasks from 10 k to 10 M rides: `make bench-scale`."""

from __future__ import annotations

import json
import statistics
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.candidates import CANDIDATES, OURS, Pass, compete
from benchmarks.data import create, drop, fill, repeat
from benchmarks.machine import machine
from benchmarks.stacks import own_stack, wide_console
from jobs import settings as configuration
from jobs.clients import kafka_config
from jobs.settings import Settings

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# So many different rides; larger topics hold them several times.
DIFFERENT = 1_000_000

console = wide_console()


def main(
    largest: Annotated[int, typer.Option(help="Leave out what is larger.", min=SIZES[0])] = SIZES[-1],
    rounds: Annotated[int, typer.Option(help="Passes of each size but the largest.", min=1)] = 3,
    faulty: Annotated[float, typer.Option(help="Share of bad messages.", min=0, max=1)] = 0.01,
) -> None:
    """Measure, print a table, write .local/bench-scale.json."""
    sizes = [size for size in SIZES if size <= largest]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    passes: dict[int, list[Pass]] = {size: [] for size in sizes}
    with own_stack(("kafka",), console) as settings, Progress(*columns, console=console) as progress:
        fill(settings, min(DIFFERENT, sizes[-1]), faulty)
        # The first transactions on a new broker wait for its internal topics.
        _pass(settings, 1, 0)
        fixed_s = statistics.median(_pass(settings, 1, number).seconds for number in range(1, rounds + 1))
        bar = progress.add_task("", total=rounds * len(sizes[:-1]) + 1)
        for number in range(1, rounds + 1):
            for size in sizes if number == 1 else sizes[:-1]:
                progress.update(bar, description=f"{size:,} rides")
                found = _pass(settings, size, number)
                if found.messages != size:
                    raise SystemExit(f"No figures: {size} rides were given, {found.messages} messages came out.")
                passes[size].append(found)
                progress.console.print(
                    f"{size:,} rides: {found.seconds:.2f} s, {found.seconds / size * 1e6:.2f} µs each, "
                    f"{found.peak_mib:.0f} MiB"
                )
                progress.advance(bar)
    _print(passes, fixed_s)
    path = configuration.load().datastream_state / "bench-scale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"faulty": faulty, "machine": machine(), "fixed_s": fixed_s, "passes": passes}
    path.write_text(json.dumps(msgspec.to_builtins(document, str_keys=True), indent=2) + "\n")
    console.print(f"Wrote {path}", soft_wrap=True)


def _pass(settings: Settings, size: int, number: int) -> Pass:
    name = f"scale-{size}-{number}"
    source = f"{name}-raw"
    create(kafka_config(settings), [source])
    try:
        repeat(settings, settings.raw_topic, source, size)
        return compete(settings, CANDIDATES[OURS], source, size, name, keep=False)
    finally:
        drop(kafka_config(settings), [source])


def _print(passes: dict[int, list[Pass]], fixed_s: float) -> None:
    reference = min(DIFFERENT, max(passes))
    columns = ("µs each", f"of {reference:,}'s", "less fixed", f"of {reference:,}'s", "peak MiB", f"of {reference:,}'s")
    table = Table("rides", *(Column(name, justify="right") for name in columns), "seconds by task")
    each = {size: statistics.median(it.seconds / size * 1e6 for it in found) for size, found in passes.items()}
    more = {size: each[size] - fixed_s / size * 1e6 for size in passes}
    peak = {size: max(it.peak_mib for it in found) for size, found in passes.items()}
    for size, found in passes.items():
        by_task = {task: statistics.median(it.by_task[task] for it in found) for task in found[0].by_task}
        table.add_row(
            f"{size:,}",
            f"{each[size]:.2f}",
            f"{each[size] / each[reference]:.2f}",
            f"{more[size]:.2f}",
            f"{more[size] / more[reference]:.2f}",
            f"{peak[size]:.0f}",
            f"{peak[size] / peak[reference]:.2f}",
            ", ".join(f"{task} {seconds:.2f}" for task, seconds in by_task.items()),
        )
    console.print(table)
    console.print(
        f"Fixed are the {fixed_s:.2f} s that the three tasks take for one ride: to connect, claim and commit."
    )


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
