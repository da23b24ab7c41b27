"""The export with Spark, as a user runs it, compared with what PutGCP writes for the same messages."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from infra.local.environment import export_settings
from jobs.files import Folder
from jobs.kafka.claim import Claimed, Limits
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.scan import Claim
from jobs.kafka.stage import stage
from jobs.rides.export import put_gcs
from jobs.rides.transform import SINK_SCHEMA
from jobs.sinks.parquet import read_rows
from jobs.spark.checkpoint import Ends, read_ends
from tests.testkit.kafka import Raw, aborted, produce, read_all
from tests.testkit.rides import encode, result
from tests.testkit.spark import PYTHON, QUICK_START, install_spark
from tests.testkit.stack import Stack

pytestmark = pytest.mark.timeout(600)

PARTITIONS = 3
# The export, which kills itself between the write and the commit of batch 1.
KILLED = """
import os, signal
from jobs.rides.spark.export import Export
from jobs.spark_export import app

write = Export._export

def write_and_die(self, messages, batch):
    exported = write(self, messages, batch)
    if batch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return exported

Export._export = write_and_die
app()
"""
INVALID = [None, b"{", encode(result(ts="2026-01-05 08:15")), encode(result(price_total=float("nan")))]


@dataclass(frozen=True)
class Run:
    """A topic, a prefix and a checkpoint, and the export between them."""

    stack: Stack
    topic: str
    prefix: str
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "spark" / f"export-{self.topic}" / "checkpoint"

    def export(self, *arguments: str, **changes: object) -> subprocess.CompletedProcess[str]:
        settings = self.stack.settings.model_copy(
            update={
                "datastream_state": self.folder,
                "result_topic": self.topic,
                "spark_export_prefix": self.prefix,
                "spark_max_batch": 100,
                "spark_driver_memory": "512m",
                **changes,
            }
        )
        return subprocess.run(
            [PYTHON, *(arguments or ("-m", "jobs.spark_export"))],
            env=os.environ | export_settings(settings) | QUICK_START,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def read_objects(self, prefix: str = "") -> dict[str, bytes]:
        """The objects under a prefix, by the name after it."""
        prefix = prefix or self.prefix
        blobs = self.stack.gcs.list_blobs(self.stack.bucket, prefix=prefix)
        return {blob.name.removeprefix(prefix): blob.download_as_bytes() for blob in blobs}

    def read_positions(self) -> list[tuple[int, int]]:
        """Partition and offset of each row under the prefix."""
        blobs = self.stack.gcs.list_blobs(self.stack.bucket, prefix=self.prefix)
        rows = [read_rows(blob, SINK_SCHEMA).select(["kafka_partition", "kafka_offset"]) for blob in blobs]
        return sorted(tuple(row.values()) for batch in rows for row in batch.to_pylist())

    def list_batches(self) -> list[Ends]:
        """The ends of each batch, after the beginning of the topic."""
        numbers = sorted(int(file.name) for file in (self.checkpoint / "offsets").glob("[0-9]*"))
        return [dict.fromkeys(range(PARTITIONS), 0), *(read_ends(self.checkpoint, n, self.topic) for n in numbers)]

    def is_committed(self, batch: int) -> bool:
        return (self.checkpoint / "commits" / str(batch)).exists()

    def write_as_put_gcp(self, prefix: str) -> None:
        """Write the batches of the checkpoint as PutGCP does: each range is a chunk."""
        for number, (starts, ends) in enumerate(pairwise(self.list_batches())):
            claims = tuple(Claim(partition, start, ends[partition]) for partition, start in starts.items())
            claimed = Claimed(self.topic, "", prefix, claims, Limits(10**6, 10**6, 2**30), 0)
            with open_group_reader(self.stack.kafka, self.topic, prefix) as reader:
                staged = stage(self.stack.kafka, reader, claimed, Folder(f"file://{self.folder}/staging/{number}"))[1]
            put_gcs(self.stack.gcs, self.stack.bucket, prefix, staged)


@pytest.fixture(scope="module", autouse=True)
def spark() -> None:
    """Installs Spark, unless it is installed."""
    install_spark()


@pytest.fixture
def run(stack: Stack, topic_factory: Callable[..., str], prefix: str, tmp_path: Path) -> Run:
    return Run(stack, topic_factory("result", PARTITIONS), prefix, tmp_path)


def make_results(number: int) -> list[Raw]:
    """Results of several hours, out of order, with extreme values."""
    times = ["2026-01-05T08:15:30.123456Z", "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z",
             "2026-01-05T07:59:59.999999Z", "1582-10-10T12:00:00.000001Z"]  # fmt: skip
    amounts = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 0.0, 1 / 3]
    places = [{"lat": -90.0, "lon": 180.0}, {"lat": 40.7549, "lon": -73.984}]
    return [
        Raw(
            encode(result(ts=times[n % 5], price_total=amounts[n % 5], origin=places[n % 2], unknown={"field": n})),
            headers=[("trace", b"\xff")],
            partition=n % PARTITIONS,
        )
        for n in range(number)
    ]


def test_the_export_is_the_same_as_that_of_put_gcp_after_a_kill_and_after_a_refusal(stack: Stack, run: Run) -> None:
    """Batch 1 is killed between write and commit, and a later batch with invalid messages is refused."""
    sent = make_results(250)
    produce(stack.kafka, run.topic, [*sent[:90], *sent[:10]])
    aborted(stack.kafka, run.topic, [Raw(encode(result()), partition=n % PARTITIONS) for n in range(20)])
    produce(stack.kafka, run.topic, [*sent[90:], *(Raw(value, partition=1) for value in INVALID), *sent[:30]])

    killed = run.export("-c", KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (run.is_committed(0), run.is_committed(1)) == (True, False)
    _, first_ends, ends = run.list_batches()
    after_kill = run.read_objects()
    assert {(n, o) for n, o in run.read_positions() if o >= first_ends[n]}, "batch 1 was written"
    assert all(offset < ends[partition] for partition, offset in run.read_positions())

    refused = run.export()
    assert refused.returncode == 1, refused.stderr
    assert f"4 messages of {run.topic} are not valid results:\n" in refused.stderr
    invalid = [
        f"\n{run.topic}[1]@{record.offset}: " for record in read_all(stack.kafka, run.topic) if record.value in INVALID
    ]
    assert len(invalid) == 4
    assert all(line in refused.stderr for line in invalid)
    assert "--skip-invalid" in refused.stderr
    after_refusal = run.read_objects()
    assert after_kill.items() <= after_refusal.items(), "the same batch wrote the same objects again"
    last = len(run.list_batches()) - 2
    assert (run.is_committed(last - 1), run.is_committed(last)) == (True, False)

    done = run.export("-m", "jobs.spark_export", "--skip-invalid")
    assert done.returncode == 0, done.stderr
    assert f"Batch {last}: " in done.stdout, "it repeated the refused batch"
    assert all(line in done.stdout for line in invalid)
    assert "left out 4 invalid messages" in done.stdout

    objects = run.read_objects()
    assert after_refusal.items() <= objects.items()
    run.write_as_put_gcp("put-gcp-" + run.prefix)
    assert objects == run.read_objects("put-gcp-" + run.prefix)
    positions = run.read_positions()
    assert len(positions) == len(set(positions)) == 290
    assert "2026/01/05/07" in {name[:13] for name in objects}
    assert "0001/01/01/00" in {name[:13] for name in objects}


def test_an_export_that_would_double_rows_is_refused(stack: Stack, run: Run) -> None:
    overlapping = run.export(spark_export_prefix=f"{stack.settings.gcs_prefix}spark/")
    assert (overlapping.returncode, "overlap: BigQuery would read each ride twice" in overlapping.stderr) == (3, True)
    stack.gcs.bucket(stack.bucket).blob(f"{run.prefix}2026/01/05/07/part.parquet").upload_from_string(b"")
    foreign = run.export()
    assert (foreign.returncode, "would write rows a second time" in foreign.stderr) == (3, True), foreign.stderr
    missing = run.export("-m", "jobs.spark_export", "--spark-topics", spark_result_topic="no-such-topic")
    assert (missing.returncode, "There is no topic 'no-such-topic'" in missing.stderr) == (3, True), missing.stderr
