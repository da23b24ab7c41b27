"""The candidates in pricing rides: the tasks of dag_compute_cost, a relay that only copies, and the peers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks import data
from benchmarks.measure import Measured, run
from benchmarks.route import Route, name_dead_letters, name_warm_up
from jobs.clients import make_kafka_config
from jobs.settings import ROOT, Settings

PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
SPARK_PYTHON = ROOT / ".venv-spark" / "bin" / "python"
# Made when the jars of Spark's Kafka connector are there, too.
SPARK_READY = ROOT / ".venv-spark" / ".stamp"

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
    def from_tasks(cls, messages: int, tasks: Tasks) -> Pass:
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


def run_datastream(route: Route) -> Tasks:
    """Run the three tasks of dag_compute_cost again and again until ConsumeKafka finds no message."""
    tasks: Tasks = []
    number = 0
    while True:
        number += 1
        url = ""
        for task in ("ConsumeKafka", "ComputeCostTravel", "PublishKafka"):
            measured = run(
                "benchmarks.path",
                task,
                route.to_json(),
                str(number),
                url,
                environment=make_airflow_environment(Path(route.folder)),
            )
            url, records = measured.answer
            if not records:
                return tasks
            tasks.append((task, measured))


def run_relay(route: Route) -> Tasks:
    return [("relay", run("benchmarks.relay", route.to_json()))]


def make_stock_runner(distance: str, options: str) -> Callable[[Route], Tasks]:
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
                    environment=make_airflow_environment(Path(route.folder)),
                ),
            )
            for task in ("consume", "produce")
        ]

    return work


def run_quix(route: Route) -> Tasks:
    if not PEERS_PYTHON.exists():
        raise UnavailableError("its packages are not installed: make .venv-bench/.stamp")
    return [("quix", run("benchmarks.peers.quix", route.to_json(), python=PEERS_PYTHON))]


def make_spark_runner(engine: str, cores: int, *options: str) -> Callable[[Route], Tasks]:
    """A runner of an engine of `benchmarks.spark` with local[cores]."""

    def work(route: Route) -> Tasks:
        if not SPARK_READY.exists():
            raise UnavailableError("Spark is not installed: make .venv-spark/.stamp")
        arguments = engine, str(cores), route.to_json(), *options
        environment = {"TMPDIR": route.folder}
        return [("spark", run("benchmarks.spark", *arguments, python=SPARK_PYTHON, environment=environment))]

    return work


def name_both(target: str) -> list[str]:
    """The topics for the results and the dead letters of a target."""
    return [target, name_dead_letters(target)]


def _make_spark_candidates() -> Iterator[Candidate]:
    for cores in (1, 2):
        yield Candidate(
            f"spark-functions-{cores}",
            "at least once",
            make_spark_runner("functions", cores),
            scratch=lambda target: [name_warm_up(target)],
        )
        for engine, guarantee in (("arrow", "at least once"), ("exactly-once", "exactly once")):
            yield Candidate(
                f"spark-{engine}-{cores}",
                guarantee,
                make_spark_runner(engine, cores),
                targets=name_both,
                scratch=lambda target: name_both(name_warm_up(target)),
            )


def make_airflow_environment(folder: Path) -> dict[str, str]:
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
        Candidate(OURS, "exactly once", run_datastream, targets=name_both),
        Candidate(RELAY, "exactly once; copies only", run_relay),
        Candidate("stock-defaults", "at least once", make_stock_runner("haversine", "defaults"), at_most=5_000),
        Candidate("stock-haversine", "at least once", make_stock_runner("haversine", "tuned"), at_most=100_000),
        Candidate("stock-geopy", "at least once", make_stock_runner("geopy", "tuned"), at_most=100_000),
        *_make_spark_candidates(),
        Candidate("quix", "exactly once", run_quix),
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
        return Pass.from_tasks(sum(data.count_messages(config, topic) for topic in held), tasks)
    finally:
        shutil.rmtree(folder)
        data.drop(config, [topic for topic in every if not (keep and topic == target)])
