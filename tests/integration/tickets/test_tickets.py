"""Tickets from Kafka through Spark into the outputs, as a user runs it: in .venv-spark, on the local broker."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.clients import Systems
from jobs.kafka.client import open_consumer
from jobs.kafka.lag import read_lag
from jobs.kafka.offsets import read_committed_offsets
from jobs.settings import ROOT
from jobs.tickets.contract import Reason
from jobs.tickets.ledger import Ledger, take_ledger
from jobs.tickets.vertical import GROUP, TicketsSettings
from tests.testkit.kafka import Raw, aborted, produce
from tests.testkit.spark import install_spark
from tests.testkit.stack import Stack
from tests.testkit.tickets import ticket
from tests.testkit.wait import until
from ticket_messages import FAULTS

pytestmark = pytest.mark.timeout(600)

SPARK = ROOT / ".venv-spark" / "bin" / "python"
PROCESSOR = ROOT / "jobs" / "tickets" / "spark_processor.py"
STARTED_S = 240  # of Spark on a busy machine
# The processor with shorter intervals. If its first argument is `kill`, it kills itself between write and commit.
STREAM = """
import os, signal, sys
from jobs.tickets.spark import stream

def write_and_die(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

write = stream.write_outputs
stream.TRIGGER_S = 1
if sys.argv.pop(1) == "kill":
    stream.write_outputs = write_and_die
from jobs.tickets.spark_processor import app
app()
"""


def encode(content: Any) -> bytes:
    return json.dumps(content).encode()


class Run:
    """A topic and a folder of outputs, and the processor between them."""

    def __init__(self, stack: Stack, topic: str, folder: Path) -> None:
        self.topic = topic
        self.outputs = folder / "output"
        self.settings = TicketsSettings(
            _env_file=None,  # type: ignore[call-arg]
            datastream_state=folder / "state",
            kafka_bootstrap_servers=stack.bootstrap_servers,
            tickets_topic_name=topic,
            tickets_output_path=self.outputs,
        )
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DATASTREAM_STATE": str(folder / "state"),
            "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
            "TICKETS_TOPIC_NAME": topic,
            "TICKETS_OUTPUT_PATH": str(self.outputs),
            "TICKETS_SPARK_MEMORY": "512m",
        }

    def process(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SPARK, PROCESSOR, *options], env=self.environment | variables, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip

    @contextmanager
    def stream(self, mode: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running stream, in a process group of its own."""
        process = subprocess.Popen(
            [SPARK, "-c", STREAM, mode, "--mode", "stream"], env=self.environment, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def ledger(self) -> Ledger:
        return take_ledger(Systems(self.settings))


@pytest.fixture(scope="module", autouse=True)
def spark() -> None:
    """Installs Spark, unless it is installed."""
    install_spark()


@pytest.fixture
def run(stack: Stack, topic_factory: Callable[..., str], tmp_path: Path) -> Run:
    return Run(stack, topic_factory("tickets", 3), tmp_path)


def test_every_message_is_a_ticket_or_a_reject_with_its_reason(stack: Stack, run: Run) -> None:
    """JSON outputs of a topic that ends with an aborted transaction."""
    good = [ticket(priority=priority) for priority in ("low", "critical", "high")]
    bad = {label: FAULTS[label](ticket()) for label in FAULTS}
    later = ticket(ticket_id=good[0]["ticket_id"].upper(), client_id="CLIENT_1111")
    values = [*map(encode, good[:2]), *bad.values(), encode(later), encode(good[2])]
    produce(stack.kafka, run.topic, [Raw(value, b"key", [("trace", b"\xff")], partition=1) for value in values])
    aborted(stack.kafka, run.topic, [Raw(encode(ticket()), partition=1)])

    done = run.process("--output-format", "json", TICKETS_LOG_LEVEL="DEBUG")

    assert done.returncode == 0, done.stderr
    assert f"ticket_id={good[1]['ticket_id']} partition=1 offset=1 assigned_team='Account Management'" in done.stderr
    assert f"ticket_id={good[0]['ticket_id']} partition=1 offset={2 + len(bad)} reason=duplicate_ticket" in done.stderr
    rejects = [json.loads(line) for line in (run.outputs / "rejects" / "part-00000-rejects.json").open()]
    expected = dict(enumerate(bad, 2)) | {2 + len(bad): str(Reason.DUPLICATE_TICKET)}
    assert {(row["partition"], row["offset"]): row["reason"] for row in rejects} == {
        (1, offset): label for offset, label in expected.items()
    }
    for row in rejects:
        value = row["value"] and base64.b64decode(row["value"])
        assert value == values[row["offset"]], "byte for byte"
        assert base64.b64decode(row["key"]) == b"key"
        assert row["headers"] == [{"key": "trace", "value": base64.b64encode(b"\xff").decode()}]
    assert rejects[-1]["detail"] == "the ticket came first in partition 1 at offset 0"
    (part,) = (run.outputs / "tickets_with_assignment").glob("part-*")
    tickets = [json.loads(line) for line in part.open()]
    assert tickets == [
        {**sent, "assigned_team": "Account Management", "kafka_partition": 1, "kafka_offset": offset}
        for sent, offset in zip(good, (0, 1, len(values) - 1), strict=True)
    ]
    ledger = run.ledger()
    assert (ledger.incoming, ledger.tickets, ledger.rejects, ledger.pending) == (len(values), 3, len(values) - 3, 0)
    assert (ledger.balanced, ledger.faults) == (True, [])
    assert ledger.metrics["critical_priority_count"] == 1


def test_a_stream_killed_between_write_and_commit_doubles_nothing(stack: Stack, run: Run) -> None:
    sent = [ticket(request_type=kind) for kind in ("billing", "technical", "account", "general") * 25]
    produce(stack.kafka, run.topic, [Raw(encode(content), content["ticket_id"].encode()) for content in sent])
    with run.stream("kill") as killed:
        assert killed.wait(STARTED_S) == -signal.SIGKILL
    assert not list((run.settings.tickets_state / "checkpoint" / "commits").glob("[0-9]*"))
    assert len(pd.read_parquet(run.outputs / "tickets_with_assignment")) == 100, "it was killed after the write"

    again = [encode(sent[0]), encode(ticket(client_id="CLIENT_1")), encode(ticket())]
    with run.stream("live") as live:
        until((run.settings.tickets_state / "checkpoint" / "commits" / "0").exists, "batch 0", within_s=STARTED_S)
        produce(stack.kafka, run.topic, [Raw(value) for value in again])

        def has_all() -> bool:
            """Reads an output all the time while it is replaced."""
            (metrics,) = pd.read_parquet(run.outputs / "metrics").to_dict("records")
            return bool(metrics["total_tickets"] == 101)

        until(has_all, "the second batch", within_s=STARTED_S)
        until(lambda: run.ledger().balanced is True, "outputs of one run")
        ledger = run.ledger()
        ends = ledger.run.ends if ledger.run else {}

        def is_committed() -> bool:
            with open_consumer(stack.kafka, GROUP) as client:
                committed = read_committed_offsets(client, run.topic, [0, 1, 2])
            return {partition: offset.offset for partition, offset in committed.items()} == ends

        until(is_committed, "the position in Kafka")
        assert read_lag(stack.kafka, run.topic, GROUP, is_stream=True).offsets == 0
        busy = run.process("--mode", "stream")
        assert (busy.returncode, "Another stream uses" in busy.stderr) == (1, True), busy.stderr
        live.terminate()
        assert live.wait(60) == 0

    assert (ledger.incoming, ledger.tickets, ledger.rejects) == (103, 101, 2)
    assert ledger.rejects_by_reason == {"duplicate_ticket": 1, "invalid_client_id": 1}
    assert ledger.faults == []
    other = run.process("--mode", "stream", TICKETS_TOPIC_NAME="rides_raw")
    assert other.returncode == 1


def test_the_processor_refuses_what_cannot_work(run: Run) -> None:
    unreachable = run.process(TICKETS_REDPANDA_BROKER_LOCAL="127.0.0.1:1", TICKETS_PRODUCER_TIMEOUT="1")
    assert (unreachable.returncode, "No broker answered at 127.0.0.1:1 within 1 s" in unreachable.stderr) == (1, True)
    too_much = run.process("--memory", "900g")
    assert (too_much.returncode, "The memory 900g does not fit" in too_much.stderr) == (1, True)
    missing = run.process(TICKETS_TOPIC_NAME="no-such-topic")
    assert (missing.returncode, "There is no topic 'no-such-topic'" in missing.stderr) == (1, True)
    wrong = run.process("--output-format", "csv")
    assert (wrong.returncode, "'csv' is none of parquet, json" in wrong.stderr) == (1, True)


def test_the_producer_sends_tickets_faults_and_repeats(stack: Stack, topic_factory: Callable[..., str]) -> None:
    topic = topic_factory("tickets", 3)
    script = ROOT / "producer" / "tickets" / "ticket_producer.py"
    options = ("--rate", "0", "--count", "500", "--faulty", "0.1", "--duplicates", "0.05", "--seed", "7")
    variables = {**os.environ, "TICKETS_REDPANDA_BROKER_LOCAL": stack.bootstrap_servers, "TICKETS_TOPIC_NAME": topic}
    done = subprocess.run(
        [sys.executable, script, *options], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sent 500 tickets, delivered 500" in done.stderr
