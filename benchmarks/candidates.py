"""The candidates in pricing rides: the tasks of dag_compute_cost, a relay that only copies, and the peers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks import data
from benchmarks.measure import Measured, run
from benchmarks.route import Route, dead_letters
from infra.local.java import jars
from jobs.clients import make_kafka_config
from jobs.settings import ROOT, Settings

PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"

Tasks = list[tuple[str, Measured]]


class UnavailableError(Exception):
    """A peer cannot run on this machine. The text says why."""


class Pass(msgspec.Struct, frozen=True):
    """One pass of one candidate. `messages` are those in its target topics; memory is that of its largest task."""

    messages: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    by_task: dict[str, float]

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds

    @classmethod
    def of(cls, messages: int, tasks: Tasks) -> Pass:
        by_task: dict[str, float] = {}
        for name, task in tasks:
            by_task[name] = by_task.get(name, 0) + task.seconds
        cpu_seconds = sum(task.cpu_seconds for _, task in tasks)
        return cls(messages, sum(by_task.values()), cpu_seconds, max(task.peak_mib for _, task in tasks), by_task)


@dataclass(frozen=True)
class Candidate:
    """A program that moves the messages of a route.

    Args:
        work: runs it; returns its tasks, each a separate process.
        at_most: the most messages for a slow candidate, so that a pass takes minutes at most.
        targets: the topics for the messages of a route's target.
        scratch: other topics that it needs.
    """

    name: str
    guarantee: str
    work: Callable[[Route], Tasks]
    at_most: int = sys.maxsize
    targets: Callable[[str], list[str]] = lambda target: [target]
    scratch: Callable[[str], list[str]] = lambda target: []


def datastream(route: Route) -> Tasks:
    """Run the three tasks of dag_compute_cost again and again until ConsumeKafka finds no message."""
    tasks: Tasks = []
    number = 0
    while True:
        number += 1
        url = ""
        for task in ("ConsumeKafka", "ComputeCostTravel", "PublishKafka"):
            found = run(
                "benchmarks.path",
                task,
                route.to_json(),
                str(number),
                url,
                environment=airflow_environment(Path(route.folder)),
            )
            url, records = found.answer
            if not records:
                return tasks
            tasks.append((task, found))


def relay(route: Route) -> Tasks:
    return [("relay", run("benchmarks.relay", route.to_json()))]


def stock(distance: str, options: str) -> Callable[[Route], Tasks]:
    def work(route: Route) -> Tasks:
        return [
            (
                task,
                run(
                    "benchmarks.peers.stock",
                    task,
                    distance,
                    options,
                    route.to_json(),
                    environment=airflow_environment(Path(route.folder)),
                ),
            )
            for task in ("consume", "produce")
        ]

    return work


def quix(route: Route) -> Tasks:
    _demand_peers()
    return [("quix", run("benchmarks.peers.quix", route.to_json(), python=PEERS_PYTHON))]


def spark(route: Route) -> Tasks:
    _demand_peers()
    try:
        jars.fetch(["spark"])
    except jars.DownloadError as error:
        raise UnavailableError(str(error)) from error
    files = ",".join(str(jar.path) for jar in jars.read_locked("spark"))
    return [("spark", run("benchmarks.peers.spark", route.to_json(), files, python=PEERS_PYTHON))]


def _demand_peers() -> None:
    if not PEERS_PYTHON.exists():
        raise UnavailableError("its packages are not installed: make .venv-bench/.stamp")


def airflow_environment(folder: Path) -> dict[str, str]:
    """The environment of Airflow's tasks, except that AIRFLOW_HOME is not in the user's home."""
    return {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "airflow" / "config"))),
    }


OURS = "datastream"
RELAY = "relay"
CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate(OURS, "exactly once", datastream, targets=lambda target: [target, dead_letters(target)]),
        Candidate(RELAY, "exactly once; copies only", relay),
        Candidate("stock-defaults", "at least once", stock("haversine", "defaults"), at_most=5_000),
        Candidate("stock-haversine", "at least once", stock("haversine", "tuned"), at_most=100_000),
        Candidate("stock-geopy", "at least once", stock("geopy", "tuned"), at_most=100_000),
        Candidate("spark", "at least once", spark, scratch=lambda target: [f"{target}-warm-up"]),
        Candidate("quix", "exactly once", quix),
    )
}


def compete(settings: Settings, candidate: Candidate, source: str, rides: int, target: str, *, keep: bool) -> Pass:
    """Price the first rides of a topic with a candidate, in new topics, and count the messages that arrived.

    Raises:
        FailedError, UnavailableError: the candidate failed or cannot run here.
    """
    config = make_kafka_config(settings)
    held = candidate.targets(target)
    every = [*held, *candidate.scratch(target)]
    data.create(config, every)
    folder = settings.datastream_state / "staging" / target
    folder.mkdir(parents=True)
    try:
        tasks = candidate.work(Route(settings.bootstrap_servers, source, target, rides, str(folder)))
        return Pass.of(sum(data.messages_in(config, topic) for topic in held), tasks)
    finally:
        shutil.rmtree(folder)
        data.drop(config, [topic for topic in every if not (keep and topic == target)])
