"""Measures time and memory of dag_compute_cost's tasks from 10 k to 10 M rides."""

from __future__ import annotations

import statistics

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from benchmarks.candidates import CANDIDATES, OURS, Pass, compete
from benchmarks.data import create, drop, repeat
from benchmarks.measure import FailedError
from jobs.clients import make_kafka_config
from jobs.rides.vertical import RidesSettings

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# A few rides in each partition, to measure the fixed cost of a run.
_FEW = 60
# The size with which the others are compared.
_REFERENCE = 1_000_000


class Scale(msgspec.Struct, frozen=True):
    """The passes of each size, and the fixed seconds of a run (measured with _FEW rides)."""

    fixed_s: float
    passes: dict[int, list[Pass]]

    @property
    def reference(self) -> int:
        return min(_REFERENCE, max(self.passes))

    def us_each(self, size: int) -> float:
        """Microseconds per ride, the median of all passes."""
        return statistics.median(measured.seconds for measured in self.passes[size]) / size * 1e6

    def us_more(self, size: int) -> float:
        """Microseconds per ride, without its share of the fixed cost of a run."""
        return self.us_each(size) - self.fixed_s / size * 1e6

    def peak_mib(self, size: int) -> float:
        return max(measured.peak_mib for measured in self.passes[size])


def measure(settings: RidesSettings, progress: Progress, rounds: int, largest: int) -> Scale:
    """Price the rides of rides_raw, repeated to reach each size up to `largest`.

    Raises:
        FailedError: the number of results differs from the number of rides.
    """
    sizes = [size for size in SIZES if size <= largest]
    _run_pass(settings, _FEW, 0)  # the first transactions on a new broker wait for its internal topics
    fixed_s = statistics.median(_run_pass(settings, _FEW, number).seconds for number in range(1, rounds + 1))
    passes: dict[int, list[Pass]] = {size: [] for size in sizes}
    bar = progress.add_task("scale", total=rounds * len(sizes[:-1]) + 1)
    for number in range(1, rounds + 1):
        for size in sizes if number == 1 else sizes[:-1]:
            progress.update(bar, description=f"scale: {size:,} rides")
            measured = _run_pass(settings, size, number)
            passes[size].append(measured)
            progress.console.print(
                f"scale: {size:,} in {measured.seconds:.2f} s, {measured.seconds / size * 1e6:.2f} µs each, "
                f"{measured.peak_mib:.0f} MiB"
            )
            progress.advance(bar)
    return Scale(fixed_s, passes)


def _run_pass(settings: RidesSettings, size: int, number: int) -> Pass:
    name = f"scale-{size}-{number}"
    source = f"{name}-raw"
    create(make_kafka_config(settings), [source])
    try:
        repeat(settings, settings.raw_topic, source, size)
        measured = compete(settings, CANDIDATES[OURS], source, size, name, keep=False)
    finally:
        drop(make_kafka_config(settings), [source])
    if measured.messages != size:
        raise FailedError(f"{size} rides were sent, but {measured.messages} messages came out")
    return measured


def show(scale: Scale, console: Console) -> None:
    relative = f"/ {scale.reference:,}"
    columns = ("µs per ride", relative, "without fixed", relative, "peak MiB", relative)
    table = Table("rides", *(Column(name, justify="right") for name in columns), "seconds by task")
    for size, passes in scale.passes.items():
        by_task = {task: statistics.median(measured.by_task[task] for measured in passes) for task in passes[0].by_task}
        figures = (
            (figure(size), figure(size) / figure(scale.reference), digits)
            for figure, digits in ((scale.us_each, 2), (scale.us_more, 2), (scale.peak_mib, 0))
        )
        cells = (cell for value, share, digits in figures for cell in (f"{value:.{digits}f}", f"{share:.2f}"))
        table.add_row(f"{size:,}", *cells, ", ".join(f"{task} {seconds:.2f}" for task, seconds in by_task.items()))
    console.print(table)
    console.print(
        f"The fixed cost is {scale.fixed_s:.2f} s: the time of the three tasks for {_FEW} rides, to connect, claim, "
        "read each partition, and commit."
    )
