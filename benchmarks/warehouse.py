"""Load transactions into PostgreSQL through the exactly-once path, compared with a bare COPY of the loaded rows."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import msgspec
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.progress import Progress

from benchmarks.measure import FailedError, Measured, run
from benchmarks.stacks import start_stack
from jobs.clients import make_kafka_config
from jobs.kafka.client import QUIET
from jobs.settings import ROOT
from jobs.shop.database import ADMIN, connect
from jobs.shop.vertical import LOAD_GROUP

_TIMEOUT_S = 60
_WARM_UP = 0


class Warehouse(msgspec.Struct, frozen=True):
    """Passes of the load and of the bare COPY, in the order of the rounds; their answers are messages and rows."""

    loads: list[Measured]
    copies: list[Measured]

    @property
    def rate(self) -> float:
        """Messages loaded per second."""
        return statistics.median(_rate(measured) for measured in self.loads)

    @property
    def copy_rate(self) -> float:
        """Rows copied per second."""
        return statistics.median(_rate(measured) for measured in self.copies)

    @property
    def ratio(self) -> float:
        """The speed of the load relative to the bare COPY, the median of the rounds."""
        return statistics.median(_rate(load) / _rate(copy) for load, copy in zip(self.loads, self.copies, strict=True))


def _rate(measured: Measured) -> float:
    return float(measured.answer) / measured.seconds


def measure(console: Console, progress: Progress, rounds: int, messages: int) -> Warehouse:
    """Load the same topic in each round into an empty table, then copy what was loaded.

    Of the messages, a fifth change the status of an earlier one, 1 % are faulty and 1 % are repeats.

    Raises:
        FailedError: the number of loaded messages differs from the number of messages.
    """
    warehouse = Warehouse([], [])
    with start_stack(("kafka", "postgres"), console) as started:
        settings: Any = started
        fill(settings, messages)
        bar = progress.add_task("load", total=2 * (rounds + 1))
        given = settings.model_dump_json(include={"kafka_port", "datastream_state", "shop_postgres_port"})
        for number in range(rounds + 1):
            empty(settings)
            folder = tempfile.mkdtemp(dir=settings.datastream_state)
            for work, passes in (("load", warehouse.loads), ("copy", warehouse.copies)):
                measured = run("benchmarks.loads", work, given, folder)
                if work == "load" and measured.answer != messages:
                    raise FailedError(f"{messages} messages went in, {measured.answer} were loaded")
                if number != _WARM_UP:
                    passes.append(measured)
                progress.advance(bar)
            shutil.rmtree(folder)
    return warehouse


def fill(settings: Any, messages: int) -> None:
    """Send the transactions."""
    command = [sys.executable, str(ROOT / "producer" / "shop" / "generator.py"), "--to", "kafka", "--rate", "0"]
    command += ["--seed", "1", "--count", str(messages), "--faulty", "0.01", "--duplicates", "0.01"]
    subprocess.run([*command, "--broker", settings.bootstrap_servers, "--topic", settings.shop_topic], check=True)


def empty(settings: Any) -> None:
    """Forget all that was loaded, in PostgreSQL and in Kafka."""
    with connect(settings, ADMIN) as database:
        database.execute("TRUNCATE raw.transactions_raw, raw.load_offsets, raw.load_refusals, raw.load_batches")
    admin = AdminClient({**QUIET, **make_kafka_config(settings)})  # must live until the answers arrive
    groups = {group.group_id for group in admin.list_consumer_groups().result(_TIMEOUT_S).valid}
    old = [name for name in (LOAD_GROUP, f"{LOAD_GROUP}.kept") if name in groups]
    for answer in admin.delete_consumer_groups(old).values() if old else ():
        answer.result(_TIMEOUT_S)


def show(warehouse: Warehouse, console: Console) -> None:
    peak = max(measured.peak_mib for measured in warehouse.loads)
    console.print(
        f"Loaded {warehouse.loads[0].answer:,} messages: {warehouse.rate:,.0f} per second, peak {peak:,.0f} MiB; bare "
        f"COPY of their {warehouse.copies[0].answer:,} rows: {warehouse.copy_rate:,.0f} per second, ratio "
        f"{warehouse.ratio:.2f}"
    )
