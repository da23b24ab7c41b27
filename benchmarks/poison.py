"""Speed of dag_compute_cost on bad messages, compared with good ones: one partition of each, in turn."""

from __future__ import annotations

import statistics

import msgspec
from rich.console import Console
from rich.progress import Progress

from benchmarks.candidates import CANDIDATES, OURS, Pass, compete
from benchmarks.data import create, drop, fill
from benchmarks.measure import FailedError
from jobs.clients import make_kafka_config
from jobs.rides.vertical import RidesSettings

# One chunk: all messages are in one partition.
_MESSAGES = 50_000
_WARM_UP = 0


class Poison(msgspec.Struct, frozen=True):
    """Passes over good messages and over bad ones, in the order of the rounds."""

    good: list[Pass]
    bad: list[Pass]

    @property
    def ratio(self) -> float:
        """The speed of bad messages relative to good ones, the median of the rounds."""
        return statistics.median(bad.rate / good.rate for good, bad in zip(self.good, self.bad, strict=True))


def measure(settings: RidesSettings, progress: Progress, rounds: int) -> Poison:
    """Price a partition of good messages and one of bad ones in each round.

    Raises:
        FailedError: the number of results and dead letters differs from the number of messages.
    """
    config = make_kafka_config(settings)
    passes: dict[str, list[Pass]] = {"good": [], "bad": []}
    sources = {kind: f"poison-{kind}" for kind in passes}
    create(config, [*sources.values()], partition_count=1)
    bar = progress.add_task("poison", total=2 * (rounds + 1))
    try:
        for kind, source in sources.items():
            fill(settings.model_copy(update={"raw_topic": source}), _MESSAGES, faulty=1.0 if kind == "bad" else 0.0)
        for number in range(rounds + 1):
            for kind, source in sources.items():
                made = compete(settings, CANDIDATES[OURS], source, _MESSAGES, f"{source}-{number}", keep=False)
                if made.messages != _MESSAGES:
                    raise FailedError(f"{_MESSAGES} {kind} messages went in, {made.messages} messages came out")
                if number != _WARM_UP:
                    passes[kind].append(made)
                progress.advance(bar)
    finally:
        drop(config, [*sources.values()])
    return Poison(**passes)


def show(poison: Poison, console: Console) -> None:
    good, bad = (statistics.median(measured.rate for measured in passes) for passes in (poison.good, poison.bad))
    console.print(
        f"One partition of {_MESSAGES:,} messages: {good:,.0f} good ones per second, {bad:,.0f} bad ones per second, "
        f"ratio {poison.ratio:.2f}"
    )
