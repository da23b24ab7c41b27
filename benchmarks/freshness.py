"""Measures freshness: the time from sending a ride until Elasticsearch finds it.

Rides arrive at a constant rate on a stack with Airflow and both DAGs. A ride's ts is the time when the producer passed
it to its Kafka client. Every POLL_S seconds, a query counts the rides of each tenth of a second. A ride's freshness is
the time from the start of its tenth until the first answer that counts it. So all rides are measured, and the figures
are up to 0.1 s + POLL_S too high. A poll first reads the number of documents, which is cheap, and counts by tenth only
if it has changed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import msgspec
import psutil
from elasticsearch import Elasticsearch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.airflow_times import RunTimes, TaskTimes, read_times
from benchmarks.data import count_messages
from benchmarks.measure import FailedError
from benchmarks.stacks import start_stack
from infra.local.services.catalog import local_stack
from jobs import airflow_api
from jobs.clients import make_elasticsearch_admin, make_elasticsearch_client, make_kafka_config
from jobs.rides.vertical import VERTICAL as RIDES
from jobs.rides.vertical import RidesSettings
from jobs.settings import ROOT

POLL_S = 0.2
TICK_MS = 100
# Give up after this time without a new ride once the producer has ended.
STALLED_S = 120


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds."""

    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def from_counts(cls, counts: Counter[float]) -> Percentiles:
        """The percentiles of values, given how often each was seen."""
        ordered = sorted(counts.items())
        totals = list(accumulate(count for _, count in ordered))

        def at(share: float) -> float:
            return ordered[bisect_left(totals, share * totals[-1])][0]

        return cls(at(0.5), at(0.95), at(0.99), at(1))


class Census:
    """Counts the rides that Elasticsearch finds at each poll."""

    def __init__(self, client: Elasticsearch, index: str, since: datetime) -> None:
        self._client = client
        self._index = index
        self._query = {"range": {"ts": {"gte": since.isoformat()}}}
        self._counted: Counter[int] = Counter()
        self.seen: Counter[tuple[int, float]] = Counter()  # (sent in milliseconds since 1970, seconds until seen)
        self.rides = 0
        self.took_ms = 0

    def poll(self) -> None:
        count = self._client.count(index=self._index)["count"]
        if count > self.rides:
            self._count()

    def _count(self) -> None:
        answer = self._client.search(
            index=self._index,
            size=0,
            query=self._query,
            aggs={"sent": {"date_histogram": {"field": "ts", "fixed_interval": f"{TICK_MS}ms", "min_doc_count": 1}}},
            filter_path="took,aggregations.sent.buckets.key,aggregations.sent.buckets.doc_count",
        )
        now = time.time()
        self.took_ms += answer["took"]
        for bucket in answer.get("aggregations", {}).get("sent", {}).get("buckets", []):
            sent_ms, count = bucket["key"], bucket["doc_count"]
            if new := count - self._counted[sent_ms]:
                self.seen[sent_ms, now - sent_ms / 1000] += new
                self._counted[sent_ms] = count
        self.rides = self._counted.total()

    def read_stamp_delays(self, since: datetime) -> Counter[float]:
        """Seconds from ts to agent_timestamp, in tenths, of all rides sent since a moment."""
        tick = {"fixed_interval": f"{TICK_MS}ms", "min_doc_count": 1}
        answer = self._client.search(
            index=self._index,
            size=0,
            query={"range": {"ts": {"gte": since.isoformat()}}},
            aggs={
                "sent": {
                    "date_histogram": {"field": "ts", **tick},
                    "aggs": {"stamped": {"date_histogram": {"field": "agent_timestamp", **tick}}},
                }
            },
        )
        delays: Counter[float] = Counter()
        for sent in answer["aggregations"]["sent"]["buckets"]:
            for stamped in sent["stamped"]["buckets"]:
                delays[(stamped["key"] - sent["key"]) / 1000] += stamped["doc_count"]
        return delays


class Freshness(msgspec.Struct, frozen=True):
    """The result of a freshness measurement."""

    seconds: int
    rate: int
    rides: int
    freshness: Percentiles
    until_stamped: Percentiles
    runs: list[RunTimes]
    tasks: list[TaskTimes]
    cores_used: dict[str, float]
    polls_ms_per_s: float
    settings: dict[str, float]


def measure(console: Console, seconds: int, rate: int, warm_up: int) -> Freshness:
    """Start a separate stack and send `rate` rides per second. The first `warm_up` seconds do not count.

    Raises:
        FailedError: not every ride became searchable.
    """
    with start_stack(RIDES.services, console) as settings:
        airflow_api.unpause(settings, RIDES.dags)
        return _measure(settings, console, seconds, rate, warm_up)


def _measure(settings: RidesSettings, console: Console, seconds: int, rate: int, warm_up: int) -> Freshness:
    # Create the index now: searches fail while its shard is created.
    make_elasticsearch_admin(settings).indices.create(index=settings.rides_index)
    started = datetime.now(UTC)
    counted_from = started + timedelta(seconds=warm_up)
    measured_from = counted_from.timestamp()
    census = Census(make_elasticsearch_client(settings), settings.rides_index, started)
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), "--seed", "1", "--rate", str(rate)]
    command += ["--duration", str(warm_up + seconds), "--bootstrap-servers", settings.bootstrap_servers]
    command += ["--topic", settings.raw_topic]
    columns = (
        TextColumn("searchable rides: {task.completed:,.0f}"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    producer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(f"at {rate:,} per second", total=None)
            cpu: dict[str, float] = {}
            while producer.poll() is None:
                census.poll()
                progress.update(bar, completed=census.rides)
                if not cpu and time.time() >= measured_from:
                    cpu = _read_cpu_seconds(settings)
                time.sleep(POLL_S)
            cores_used = {name: (spent - cpu[name]) / seconds for name, spent in _read_cpu_seconds(settings).items()}
            if producer.returncode:
                raise FailedError(f"The producer ended with exit code {producer.returncode}: rides were not delivered.")
            sent = count_messages(make_kafka_config(settings), settings.raw_topic)
            deadline = time.monotonic() + STALLED_S
            while census.rides < sent:
                before = census.rides
                census.poll()
                if census.rides > before:
                    deadline = time.monotonic() + STALLED_S
                progress.update(bar, completed=census.rides)
                if time.monotonic() > deadline:
                    missing = sent - census.rides
                    raise FailedError(f"{missing} of {sent} rides are not searchable: no progress for {STALLED_S} s.")
                time.sleep(POLL_S)
    finally:
        producer.terminate()
        producer.wait()
    if census.rides != sent:
        raise FailedError(f"{sent} rides were sent, but {census.rides} are in Elasticsearch.")
    freshness: Counter[float] = Counter()
    for (sent_ms, seen_after), count in census.seen.items():
        if sent_ms / 1000 >= measured_from:
            freshness[seen_after] += count
    runs, tasks = read_times(settings, RIDES.dags, counted_from)
    return Freshness(
        seconds,
        rate,
        freshness.total(),
        Percentiles.from_counts(freshness),
        Percentiles.from_counts(census.read_stamp_delays(counted_from)),
        runs,
        tasks,
        cores_used,
        census.took_ms / (time.time() - started.timestamp()),
        {name: getattr(settings, name) for name in ("poll_wait_s", "max_records_per_run", "chunk_records")},
    )


def _read_cpu_seconds(settings: RidesSettings) -> dict[str, float]:
    """The CPU seconds of each service so far, including its child processes."""
    spent: defaultdict[str, float] = defaultdict(float)
    for entry in local_stack(settings).status():
        if entry.state.pid:
            process = psutil.Process(entry.state.pid)
            for one in [process, *process.children(recursive=True)]:
                try:
                    spent[entry.state.name] += sum(one.cpu_times()[:4])
                except psutil.NoSuchProcess:
                    continue
    return dict(spent)


def show(freshness: Freshness, console: Console) -> None:
    table = _make_table("seconds", "p50", "p95", "p99", "max")
    for name, percentiles in (
        ("sent → searchable", freshness.freshness),
        ("sent → agent_timestamp", freshness.until_stamped),
    ):
        table.add_row(
            name, *(f"{value:.1f}" for value in (percentiles.p50, percentiles.p95, percentiles.p99, percentiles.most))
        )
    console.print(table)
    table = _make_table("DAG", "runs", "skipped", "failed", "duration", "p95", "overhead", "pause", "start to start")
    for run in freshness.runs:
        counts = (run.runs, run.skipped, run.failed)
        spans = (run.duration, run.duration_p95, run.overhead, run.pause, run.cycle)
        table.add_row(run.dag_id, *map(str, counts), *map(_format_seconds, spans))
    console.print(table)
    table = _make_table("task", "tries", "retried", "wait", "start-up", "parsing in it", "work", "work p95", "finish")
    for task in freshness.tasks:
        phases = (task.wait, task.start_up, task.parse, task.work, task.work_p95, task.finish)
        table.add_row(
            f"{task.dag_id}.{task.task_id}", str(task.tries), str(task.retried), *map(_format_seconds, phases)
        )
    console.print(table)
    used = ", ".join(f"{name} {cores:.2f}" for name, cores in freshness.cores_used.items())
    console.print(
        f"{freshness.rides:,} rides, {freshness.rate:,} per second, {freshness.seconds} s. Medians in s, except p95. "
        f"Cores used: {used}; in all {sum(freshness.cores_used.values()):.2f} of {psutil.cpu_count()}. "
        f"The polls took {freshness.polls_ms_per_s:.0f} ms per second in Elasticsearch."
    )


def _make_table(first: str, *columns: str) -> Table:
    return Table(first, *(Column(name, justify="right") for name in columns))


def _format_seconds(value: float) -> str:
    return f"{value:.2f}"
