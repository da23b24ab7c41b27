"""Measures the compute-and-publish path beside a raw relay, on the same broker and data, in one run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Pass, in_process
from benchmarks.path import Route, compute_cost_travel, consume_kafka, publish_kafka
from benchmarks.relay import relay
from infra.local import kafka as kafka_service
from infra.local import lock, ports, stack
from jobs import settings as configuration
from jobs.kafka import topics
from jobs.settings import ROOT, Settings

console = Console()


def measure_path(route: Route) -> Pass:
    """dag_compute_cost's three tasks, run after run, until nothing is left."""
    found = Pass()
    run = 0
    while True:
        run += 1
        url, count = in_process(found, "ConsumeKafka", consume_kafka, route, str(run))
        if not count:
            return found
        url, _ = in_process(found, "ComputeCostTravel", compute_cost_travel, route, str(run), url)
        _, published = in_process(found, "PublishKafka", publish_kafka, route, str(run), url)
        found.messages += published


def measure_relay(route: Route) -> Pass:
    """The relay, in one process."""
    found = Pass()
    arguments = route.bootstrap_servers, route.source, route.target, route.group
    found.messages = in_process(found, "relay", relay, *arguments)
    return found


def main(
    rides: Annotated[int, typer.Option(help="Messages in the topic.", min=1)] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Passes of each, in turn.", min=1)] = 3,
    faulty: Annotated[float, typer.Option(help="Share of bad messages.", min=0, max=1)] = 0.01,
) -> None:
    """Measure, print a table, write .local/bench.json."""
    state = Path(tempfile.mkdtemp(prefix="datastream-bench-"))
    try:
        settings = _own_settings(state)
        stack.up(settings, [kafka_service.NAME], console)
        passes = _rounds(settings, rides, rounds, faulty)
    finally:
        stack.down(_own_settings(state))
        shutil.rmtree(state)
    _report(passes, rides, faulty)


def _own_settings(state: Path) -> Settings:
    port = next(port for port in range(31_000, 32_000) if ports.is_free(port))
    return Settings(_env_file=None, datastream_state=state, kafka_port=port, kafka_bootstrap_servers="")


def _rounds(settings: Settings, rides: int, rounds: int, faulty: float) -> dict[str, list[Pass]]:
    config = {"bootstrap.servers": settings.bootstrap_servers}
    declared = {topic.setting: topic for topic in topics.declared(ROOT / "infra" / "kafka" / "topics.yml", {})}
    topics.apply(config, [declared["RAW_TOPIC"]])
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), "--rate", "0", "--seed", "1"]
    command += ["--count", str(rides), "--faulty", str(faulty), "--bootstrap-servers", settings.bootstrap_servers]
    subprocess.run(command, check=True)
    passes: dict[str, list[Pass]] = {"relay": [], "datastream": []}
    for number in range(1, rounds + 1):
        for name, measure in (("relay", measure_relay), ("datastream", measure_path)):
            target = f"{name}-{number}"
            topics.apply(config, [msgspec.structs.replace(declared["DLQ_TOPIC"], name=target)])
            staging = f"file://{settings.datastream_state}/staging/{target}"
            found = measure(Route(settings.bootstrap_servers, "rides_raw", target, target, staging))
            passes[name].append(found)
            console.print(
                f"{name} {number}/{rounds}: {found.messages / found.seconds:,.0f} messages/s, {found.peak_mib:.0f} MiB"
            )
    return passes


def _report(passes: dict[str, list[Pass]], rides: int, faulty: float) -> None:
    wrong = [f"{name}: {found.messages}" for name, all_ in passes.items() for found in all_ if found.messages != rides]
    if wrong:
        raise SystemExit(f"No ratio: not every pass moved {rides} messages ({', '.join(wrong)}).")

    rate = {name: _median(all_, lambda found: found.messages / found.seconds) for name, all_ in passes.items()}
    table = Table("", "messages/s", "CPU s", "peak MiB", "seconds by task")
    for name, all_ in passes.items():
        by_task = [f"{task} {statistics.median(found.by_task[task] for found in all_):.2f}" for task in all_[0].by_task]
        table.add_row(
            name,
            f"{rate[name]:,.0f}",
            f"{_median(all_, lambda found: found.cpu_seconds):.1f}",
            f"{_median(all_, lambda found: found.peak_mib):.0f}",
            ", ".join(by_task),
        )
    ratio = rate["datastream"] / rate["relay"]
    console.print(table)
    console.print(f"{rides:,} messages, {faulty:.0%} of them bad; medians. datastream / relay = {ratio:.2f}")
    machine = {
        "cpu_count": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("confluent-kafka", "msgspec", "numpy", "pyarrow")},
        "kafka": lock.KAFKA,
    }
    path = configuration.load().datastream_state / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"rides": rides, "faulty": faulty, "machine": machine, "passes": passes, "ratio": ratio}
    path.write_text(json.dumps(msgspec.to_builtins(document), indent=2) + "\n")
    console.print(f"Wrote {path}", soft_wrap=True)


def _median(passes: list[Pass], figure: Callable[[Pass], float]) -> float:
    return statistics.median(map(figure, passes))


if __name__ == "__main__":
    typer.run(main)
