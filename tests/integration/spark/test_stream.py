"""The stream of rides on Spark: the same outcomes as the Python path, once, also when Spark repeats a batch."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from itertools import islice

import pytest

from jobs.kafka.lag import read_lag
from jobs.kafka.offsets import read_group_offsets
from jobs.rides.spark.vertical import STREAM_GROUP
from jobs.spark.checkpoint import find_last_batch, read_ends
from ride_faults import draw_faults
from ride_generator import NEW_YORK, make_rides, now
from tests.testkit.kafka import Raw, aborted, produce, read_all
from tests.testkit.rides import encode
from tests.testkit.spark import SparkStream, install_spark
from tests.testkit.stack import Stack

HEADERS = [("trace", b"\x00\xff"), ("trace", None), ("é", b"")]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stream(stack: Stack, topic_factory: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> SparkStream:
    """Three of four partitions have messages: the second many, the third only aborted ones at its end, the fourth only
    aborted ones.
    """
    install_spark()
    stream = SparkStream(
        stack.bootstrap_servers,
        topic_factory,
        tmp_path_factory.mktemp("state"),
        variables={"SPARK_MASTER": "local[2]", "DISTANCE_METHOD": "geodesic", "SPARK_MAX_BATCH": "700"},
    )
    produce(stream.config, stream.source, make_messages())
    for partition in (2, 3):
        aborted(stream.config, stream.source, [Raw(b"{}", partition=partition)] * 3)
    return stream


def make_messages() -> list[Raw]:
    """Generated rides, each kind of fault, and rides with random bytes in them."""
    draw = random.Random(26)
    rides = [encode(ride) for ride in islice(make_rides(NEW_YORK, 26, now), 900)]
    faults = zip(islice(draw_faults(draw), 60), make_rides(NEW_YORK, 27, now), strict=False)
    faulty = [fault(ride) for (_, fault), ride in faults]
    fuzzed = []
    for value in rides[:300]:
        broken = bytearray(value)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.choice(b'"{}[],:0e-.\\ \x00\xff9')
        fuzzed.append(bytes(broken))
    values = [*rides, *faulty, *fuzzed, None, b""]
    draw.shuffle(values)
    return [
        Raw(value, draw.choice([None, b"", b"key"]), HEADERS if draw.random() < 0.1 else None, partition=number % 3)
        for number, value in enumerate(values)
    ]


def test_the_outcomes_are_those_of_the_python_path_bit_for_bit(stream: SparkStream) -> None:
    done = stream.run()
    assert done.returncode == 0, done.stderr
    assert stream.list_differences("geodesic") == []
    assert done.stderr.count(" batch ") > 1
    assert read_lag(stream.config, stream.source, STREAM_GROUP).offsets == 0
    ledger = stream.ledger()
    assert (ledger.verdict, ledger.pending, ledger.raw) == (0, 0, ledger.result + ledger.dlq)
    trace = [
        letter for letter in read_all(stream.config, stream.dlq) if (letter.headers or [("", b"")])[0][0] == "trace"
    ]
    assert trace
    assert all((letter.headers or [])[:3] == [("trace", b"\x00\xff"), ("trace", None), ("é", b"")] for letter in trace)


def test_a_batch_that_spark_repeats_changes_nothing(stream: SparkStream) -> None:
    """As after a kill before the checkpoint's commit."""
    last = find_last_batch(stream.checkpoint)
    assert last
    for name in (str(last), f".{last}.crc"):
        (stream.checkpoint / "commits" / name).unlink()
    before = read_group_offsets(stream.config, stream.source, STREAM_GROUP)
    assert before == read_ends(stream.checkpoint, last, stream.source)

    done = stream.run()
    assert done.returncode == 0, done.stderr
    assert f"batch {last}: 0 results, 0 rejects" in done.stderr
    assert stream.list_differences("geodesic") == []
    assert read_group_offsets(stream.config, stream.source, STREAM_GROUP) == before


def test_a_checkpoint_of_other_topics_is_refused(stream: SparkStream) -> None:
    done = stream.run(SPARK_RESULT_TOPIC="another_topic")
    assert done.returncode == 3
    assert "result_topic was" in done.stderr
    assert "rm -r" in " ".join(done.stderr.split())


def test_a_wrong_master_is_reported(stream: SparkStream) -> None:
    done = stream.run(SPARK_MASTER="sparkle://localhost:7077")
    assert done.returncode == 3
    text = " ".join(done.stderr.split())
    assert "did not start with the master sparkle://localhost:7077: org.apache.spark.SparkException" in text
    assert "Traceback" not in text


def test_a_new_query_starts_at_the_offsets_of_the_group(stream: SparkStream) -> None:
    produce(stream.config, stream.source, make_messages()[:50])
    shutil.rmtree(stream.checkpoint.parent)
    done = stream.run()
    assert done.returncode == 0, done.stderr
    assert stream.list_differences("geodesic") == []
    assert json.loads((stream.checkpoint.parent / "job.json").read_text())["group"] == STREAM_GROUP
