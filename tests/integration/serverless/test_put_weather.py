"""The producer against MiniStack. What was put is read back from Kinesis."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from infra.local.runner import ports
from jobs.inherited import make_environment
from jobs.serverless.vertical import STREAM
from jobs.settings import ROOT
from tests.testkit.wait import until

SCRIPT = ROOT / "producer" / "serverless" / "put_weather.py"
GENERATOR = ROOT / "producer" / "flights" / "generate_weather.py"
EMULATOR = ROOT / ".venv-serverless"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an emulator."""
    subprocess.run(["make", "-C", ROOT, ".venv-serverless/.stamp"], check=True, env=make_environment())
    (port,) = ports.find_free(1)
    folder = tmp_path_factory.mktemp("ministack")
    variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [EMULATOR / "bin" / "ministack"], cwd=folder, stdout=log, stderr=log, env=make_environment(variables)
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _is_healthy(url), f"MiniStack answers; {folder / 'log'} has its log")
            yield url
        finally:
            process.terminate()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_localstack/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def kinesis(emulator: str) -> Iterator[Any]:
    """A client, with an empty stream of two shards."""
    client = boto3.client(
        "kinesis",
        endpoint_url=emulator,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106
    )
    client.create_stream(StreamName=STREAM, ShardCount=2)
    client.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
    yield client
    client.delete_stream(StreamName=STREAM)
    until(lambda: STREAM not in client.list_streams()["StreamNames"], "the stream is gone")


def read_all(kinesis: Any) -> list[tuple[str, bytes]]:
    """The records of each shard in its order: partition key and data."""
    found = []
    for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=STREAM, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while records := (answer := kinesis.get_records(ShardIterator=iterator))["Records"]:
            found += [(record["PartitionKey"], record["Data"]) for record in records]
            iterator = answer["NextShardIterator"]
    return found


def make_variables(emulator: str) -> dict[str, str]:
    return make_environment({"AWS_ENDPOINT_URL": emulator, "NO_PROXY": "127.0.0.1"})


def put(emulator: str, *arguments: str, lines: bytes = b"") -> tuple[str, str]:
    """Run the producer. Returns its line of totals, and what it logged."""
    result = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        input=lines,
        capture_output=True,
        timeout=60,
        check=False,
        env=make_variables(emulator),
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().strip(), result.stderr.decode()


def test_what_is_put_arrives_in_order_by_city(emulator: str, kinesis: Any) -> None:
    totals, _ = put(emulator, "--count", "600", "--rate", "0", "--seed", "1", "--history", "24")
    assert totals == (
        "put 600 records: 600 observations (0 late), 0 repeats, 0 faulty; dropped 0 too large, rejected 0 inputs"
    )
    records = read_all(kinesis)
    contents = [json.loads(value) for _, value in records]
    assert len({content["data"]["event_id"] for content in contents}) == 600
    assert [key for key, _ in records] == [content["ville"] for content in contents]
    times: dict[str, list[float]] = {}
    for content in contents:
        times.setdefault(content["ville"], []).append(content["timestamp"])
    assert len(times) > 20
    assert all(seen == sorted(seen) for seen in times.values())
    assert max(map(max, times.values())) - min(map(min, times.values())) == pytest.approx(24 * 3600, rel=0.01)


def test_the_totals_are_those_of_the_stream(emulator: str, kinesis: Any) -> None:
    totals, _ = put(emulator, "--count", "600", "--rate", "0", "--seed", "2", "--faulty", "0.05", "--duplicates", "0.2")
    match = re.match(
        r"put 600 records: (\d+) observations \((\d+) late\), (\d+) repeats, (\d+) faulty \((.*?)\);", totals
    )
    assert match, totals
    observations, late, repeats, faulty = map(int, match.groups()[:4])
    labels = {label: int(count) for label, count in re.findall(r"([\w/]+) (\d+)", match[5])}
    assert observations + repeats + faulty == 600
    assert sum(labels.values()) == faulty
    assert min(late, repeats, faulty) > 10
    values = Counter(value for _, value in read_all(kinesis))
    assert values.total() == 600
    assert sum(len(value) > 1_000_000 for value in values.elements()) == labels["too_large"]
    assert sum(count - 1 for count in values.values()) >= repeats


def test_lines_of_standard_input_are_put_and_bad_ones_counted(emulator: str, kinesis: Any) -> None:
    generated = subprocess.run(
        [sys.executable, GENERATOR, "--count", "50", "--rate", "0"], check=True, capture_output=True,
        env=make_environment(),
    ).stdout  # fmt: skip
    totals, log = put(emulator, "--from", "-", "--rate", "0", lines=b"[]\n" + generated + b"{}")
    assert totals.startswith("put 50 records: 50 observations")
    assert totals.endswith("rejected 2 inputs")
    assert "line 1 is no observation" in log
    assert "line 52 is no observation" in log
    observed = [json.loads(line)["observed_at"] for line in generated.splitlines()]
    stored = [json.loads(value)["data"] for _, value in read_all(kinesis)]
    assert {data["observed_at"] for data in stored} == set(observed)
    assert {data["source"] for data in stored} == {"stdin"}


def test_ctrl_c_puts_what_is_read_and_prints_the_totals(emulator: str, kinesis: Any, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--rate", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=make_variables(emulator),
        text=True,
    ) as process:
        try:
            until(lambda: len(read_all(kinesis)) >= 3, "records are put")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    stored = len(read_all(kinesis))
    assert out.startswith(f"put {stored} records: {stored} observations")


def test_the_requirements_are_the_pinned_ones() -> None:
    """The tests run with this environment's packages, so the file has to have the same."""
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")))
    lines = (SCRIPT.parent / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == [f"{name}=={pinned[name]}" for name in sorted(line.partition("==")[0] for line in lines)]
