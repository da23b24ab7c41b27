"""What watching costs: pricing on a broker that is watched, compared with one that is not, in turn.

Watched means the JMX agent in the broker, the exporter, Prometheus and Alertmanager, which run only during the passes
on that broker. Ledgers are not taken: they read whole topics, once in OBSERVABILITY_LEDGER_MINUTES.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress

from benchmarks.candidates import CANDIDATES, OURS, Pass, compete
from benchmarks.data import fill
from benchmarks.measure import FailedError
from benchmarks.stacks import start_stack
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process
from infra.local.services import kafka
from infra.local.services.catalog import SERVICES, local_stack
from jobs.rides.vertical import RidesSettings

WATCHERS = ("exporter", "alertmanager", "prometheus")
_WARM_UPS = 2


class Watching(msgspec.Struct, frozen=True):
    """Passes on the watched broker and on the other one, in the order of the rounds."""

    watched: list[Pass]
    alone: list[Pass]

    @property
    def ratio(self) -> float:
        """The speed when watched relative to alone, the median of the rounds."""
        return statistics.median(
            watched.rate / alone.rate for watched, alone in zip(self.watched, self.alone, strict=True)
        )


def measure(console: Console, progress: Progress, rounds: int, rides: int) -> Watching:
    """Price the same rides on both brokers in each round.

    Raises:
        FailedError: the number of results and dead letters differs from the number of rides.
    """
    watching = Watching([], [])
    with (
        start_stack(("kafka",), console, observability_ledger_minutes=0) as watched,
        start_stack(("kafka",), console, services=_without_agent()) as alone,
    ):
        bar = progress.add_task("watching", total=2 * (rounds + _WARM_UPS))
        for settings in (watched, alone):
            fill(settings, rides, 0.01)
        for number in range(rounds + _WARM_UPS):
            sides = [(watched, watching.watched), (alone, watching.alone)]
            # The first pass of a round may find another clock speed or a fuller disk than the second.
            for settings, passes in sides if number % 2 else reversed(sides):
                measured = _price(settings, rides, number, is_watched=settings is watched)
                if number >= _WARM_UPS:
                    passes.append(measured)
                progress.advance(bar)
    return watching


def _price(settings: RidesSettings, rides: int, number: int, *, is_watched: bool) -> Pass:
    if is_watched:
        local_stack(settings).up(WATCHERS)
    try:
        measured = compete(settings, CANDIDATES[OURS], settings.raw_topic, rides, f"watching-{number}", keep=False)
    finally:
        if is_watched:
            supervisor.stop(Paths(settings.datastream_state), WATCHERS)
    if measured.messages != rides:
        raise FailedError(f"{rides} rides went in, {measured.messages} messages came out")
    return measured


def _without_agent() -> list[Any]:
    def build(settings: Any) -> tuple[Process, ...]:
        return tuple(
            replace(process, command=[part for part in process.command if not part.startswith("-javaagent:")])
            for process in kafka.SERVICE.build(settings)
        )

    return [replace(service, build=build) if service is kafka.SERVICE else service for service in SERVICES]


def show(watching: Watching, console: Console) -> None:
    watched, alone = (statistics.median(it.rate for it in passes) for passes in (watching.watched, watching.alone))
    console.print(
        f"Watched broker: {watched:,.0f} rides per second; alone: {alone:,.0f} per second, ratio {watching.ratio:.3f}"
    )
