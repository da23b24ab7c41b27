"""`make test-faults TARGETS=spark`: SIGKILL of an executor, and of the driver, at each point of a task.

On a cluster of two executors (local-cluster), which are processes of their own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from ride_generator import NEW_YORK, make_rides, now
from tests.testkit.kafka import Raw, produce
from tests.testkit.rides import encode
from tests.testkit.spark import PYTHON, SparkStream, install_spark
from tests.testkit.stack import Stack

pytestmark = pytest.mark.timeout(900)

HOOK = Path(__file__).parent / "hook"
POINTS = ("init", "offset-read", "mid-send", "before-commit", "after-commit")
KILLS = [*(f"{who} {point}" for who in ("executor", "driver") for point in POINTS), "driver checkpoint"]
RIDES = make_rides(NEW_YORK, 26, now)


@pytest.fixture(scope="module")
def stream(stack: Stack, topic_factory: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> SparkStream:
    install_spark()
    folder = tmp_path_factory.mktemp("stream")
    variables = {
        "SPARK_MASTER": "local-cluster[2,1,1024]",
        "SPARK_EXECUTOR_MEMORY": "512m",
        "SPARK_HOME": str(make_spark_home(folder / "spark")),
    }
    return SparkStream(stack.bootstrap_servers, topic_factory, folder / "state", variables=variables)


def make_spark_home(folder: Path) -> Path:
    """Spark in a folder where the executors may write their logs."""
    command = "import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent)"
    done = subprocess.run([PYTHON, "-c", command], env=dict(os.environ), capture_output=True, text=True, check=True)
    folder.mkdir()
    for name in ("bin", "jars", "python", "sbin"):
        (folder / name).symlink_to(Path(done.stdout.strip()) / name)
    return folder


@pytest.mark.parametrize("kill", KILLS)
def test_nothing_is_lost_or_doubled(stream: SparkStream, tmp_path: Path, kill: str) -> None:
    values = [*(encode(ride) for ride in islice(RIDES, 400)), *[b"no ride"] * 20]
    produce(stream.config, stream.source, [Raw(value, partition=number % 4) for number, value in enumerate(values)])
    done = stream.run(KILL=kill, KILL_FOLDER=str(tmp_path), PYTHONPATH=f"{stream.environment['PYTHONPATH']}:{HOOK}")

    log = (tmp_path / "killed.log").read_text()
    assert log.startswith(f"{kill} [")
    if kill.startswith("executor"):
        assert "Lost executor" in done.stderr
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == -9, done.stderr
        done = stream.run()
        assert done.returncode == 0, done.stderr
    assert stream.list_differences() == []
    assert stream.ledger().verdict == 0
