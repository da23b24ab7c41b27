"""COMPUTE_ENGINE=spark: the claim of a run, the local service spark-driver, and what PublishKafka makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pyarrow as pa
import pytest

from infra.local.runner.paths import Paths
from infra.local.runner.supervisor import log_file, read_states
from infra.local.services import spark_driver
from infra.local.services.catalog import local_stack
from jobs.errors import ConfigurationError, ServiceUnavailableError, StagedFilesGoneError
from jobs.files import Folder, read_batches
from jobs.kafka.claim import Limits, claim
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.scan import Claim
from jobs.kafka.stage import write_claim
from jobs.kafka.staged import Manifest, read_manifest
from jobs.rides.compute import compute
from jobs.rides.distance import find_distance_function
from jobs.rides.spark.client import DriverClient
from ride_faults import draw_faults
from ride_generator import NEW_YORK, make_rides, now
from tests.testkit.flow import Pricing
from tests.testkit.kafka import Raw, aborted, produce
from tests.testkit.rides import encode, keyed, ride
from tests.testkit.spark import install_spark
from tests.testkit.stack import Stack
from tests.testkit.wait import until
from tests.unit.rides.mutations import mutations

pytestmark = pytest.mark.timeout(600)

STARTED_S = 240  # of Spark on a busy machine
HEADERS = [("trace", b"1"), ("trace", b"\x00\xff"), ("empty", b""), ("null", None), ("é", b"name")]


class SparkPricing(Pricing):
    """dag_compute_cost with COMPUTE_ENGINE=spark."""

    driver: str = ""

    def claim(self) -> str:
        """ConsumeKafka; returns the URL of the manifest."""
        with open_group_reader(self.config, self.source, self.group) as reader:
            claimed = claim(
                self.config, reader, self.limits, topic_ids=self.topic_ids, has_output=lambda _: self.has_output
            )
            return write_claim(claimed, self.next_folder())[0]

    def price(self, manifest: str, method: str = "haversine", log: Callable[[str], object] = str) -> Manifest:
        """ComputeCostTravel."""
        return read_manifest(DriverClient(self.driver, log).price(manifest, self.next_folder().url, method))


@pytest.fixture(scope="module")
def driver(stack: Stack) -> str:
    """The address of the running driver. Installs Spark, unless it is installed."""
    install_spark()
    local_stack(stack.settings).up([spark_driver.NAME])
    return str(stack.settings.driver_url)


@pytest.fixture
def spark(driver: str, stack: Stack, pricing: Pricing) -> SparkPricing:
    folder = Folder(stack.settings.staging).child(pricing.group)
    made = SparkPricing(**{**vars(pricing), "folder": folder, "limits": Limits(1_000_000, 1_000, 120_000)})
    made.driver = driver
    return made


@pytest.fixture
def log(stack: Stack) -> Path:
    """The driver's log."""
    return log_file(Paths(stack.settings.datastream_state), spark_driver.NAME)


def make_messages() -> Iterator[Raw]:
    """Rides, messages with every fault, mutations, and what only Kafka can hold."""
    faults = islice(draw_faults(random.Random(7)), 200)
    rides = make_rides(NEW_YORK, 7, now)
    yield from (Raw(encode(made), made["ride_id"].encode()) for made in islice(rides, 1_500))
    yield from (Raw(fault(made), b"key", HEADERS) for (_, fault), made in zip(faults, rides, strict=False))
    yield from (Raw(value, b"%d" % number) for number, value in enumerate(islice(mutations(7), 3_000)))
    for key, value in ((None, None), (None, b""), (b"", b""), (b"\xff\x00", b"\x00\xff"), (b"key", b"[]")):
        yield Raw(value, key, HEADERS)
        yield Raw(value, key)


def read_outcomes(manifest: Manifest) -> dict[int, pa.Table]:
    """The outcomes by partition, in the order of the manifest."""
    tables: dict[int, list[pa.Table]] = {}
    for chunk in manifest.chunks:
        tables.setdefault(chunk.partition, []).append(pa.Table.from_batches(read_batches(chunk.url)))
    return {partition: pa.concat_tables(parts).combine_chunks() for partition, parts in tables.items()}


def list_chunks(manifest: Manifest) -> list[Any]:
    """What the chunks are, without their files."""
    return [msgspec.structs.replace(chunk, url="") for chunk in manifest.chunks]


def test_spark_prices_a_claim_as_python_does(spark: SparkPricing) -> None:
    """Partition 3 has only an aborted transaction, partition 5 nothing; the ranges of 4 and 1 end with markers."""
    sent = [raw._replace(partition=(0, 1, 2, 4)[number % 4]) for number, raw in enumerate(make_messages())]
    middle = len(sent) // 2
    produce(spark.config, spark.source, sent[:middle])
    torn = [keyed(ride())._replace(partition=(0, 1, 3, 4)[number % 4]) for number in range(60)]
    aborted(spark.config, spark.source, torn)
    later = [raw._replace(partition=number % 2 * 2) for number, raw in enumerate(sent[middle:])]
    produce(spark.config, spark.source, later)
    staged = spark.staged()
    claimed = spark.claim()
    assert read_manifest(claimed).claims == staged.claims
    with pytest.raises(ConfigurationError, match=r"was not processed\. Nothing was committed"):
        spark.publish(read_manifest(claimed))
    assert spark.offsets() == dict.fromkeys(range(6))

    for method in ("haversine", "geodesic"):
        priced = spark.price(claimed, method)
        expected = compute(staged, find_distance_function(method), spark.next_folder())[1]
        assert list_chunks(priced) == list_chunks(expected), "the same cuts"
        assert len(priced.chunks) > 12
        assert read_outcomes(priced) == read_outcomes(expected), "id by id, bit for bit"
        assert (priced.is_staged, priced.ends) == (True, staged.ends)
    ends = {chunk.partition: chunk.next for chunk in priced.chunks}
    assert {partition for partition, end in priced.ends.items() if end > ends.get(partition, 0)} == {1, 3, 4}

    published = spark.publish(priced)
    assert published.results + published.rejects.total() == len(sent)
    assert len(spark.results()) == published.results > 1_500
    assert len(spark.dead_letters()) == published.rejects.total() > 1_000
    assert spark.offsets() == staged.ends
    assert spark.publish(priced).results == 0, "a repeated try finds nothing to do"


def test_a_claim_of_markers_only_is_committed(spark: SparkPricing) -> None:
    aborted(spark.config, spark.source, [keyed(ride())._replace(partition=2)])
    priced = spark.price(spark.claim())
    assert priced.chunks == ()
    spark.publish(priced)
    assert spark.offsets()[2] == 2


def test_the_work_of_a_client_that_goes_away_is_cancelled(spark: SparkPricing, log: Path) -> None:
    """The first claim ends behind the end of the topic, so that Spark waits for its messages."""
    produce(spark.config, spark.source, [keyed(ride())._replace(partition=0) for _ in range(10)])
    claimed = spark.claim()
    endless = msgspec.structs.replace(read_manifest(claimed), claims=(Claim(0, 0, 1_000),))
    url = spark.next_folder().write_manifest(endless)
    started: list[str] = []
    client = DriverClient(spark.driver, started.append)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.price, url, spark.next_folder().url, "haversine")
        until(lambda: "priced 0 of 1 partitions" in started, "a running job", within_s=STARTED_S)
        client.close()
        with pytest.raises(ServiceUnavailableError, match="this task was ended"):
            waiting.result()
    assert spark.publish(spark.price(claimed)).results == 10
    assert f"Cancelled {url}" in log.read_text()


def test_errors_say_whether_a_retry_helps(spark: SparkPricing, tmp_path: Path) -> None:
    produce(spark.config, spark.source, [keyed(ride())])
    claimed = spark.claim()
    foreign = Folder(tmp_path.as_uri())
    with pytest.raises(ConfigurationError, match=r"is outside of .*/staging, the STAGING_URL of the Spark driver"):
        spark.price(foreign.write_manifest(read_manifest(claimed)))
    with pytest.raises(StagedFilesGoneError, match="was deleted"):
        spark.price(f"{spark.next_folder().url}/manifest.json")
    missing = msgspec.structs.replace(read_manifest(claimed), topic="no-such-topic")
    with pytest.raises((ServiceUnavailableError, ConfigurationError), match="no-such-topic"):
        spark.price(spark.next_folder().write_manifest(missing))
    folder = spark.next_folder().url
    in_the_way = Path(folder.removeprefix("file://"))
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.touch()
    with pytest.raises(ServiceUnavailableError, match=r"could not price .* Not a directory"):
        DriverClient(spark.driver, str).price(claimed, folder, "haversine")


def test_a_driver_without_java_is_started_again(driver: str, stack: Stack, log: Path) -> None:
    paths = Paths(stack.settings.datastream_state)
    pid = read_states(paths)[spark_driver.NAME].pid
    (java,) = (child for child in psutil.Process(pid).children(recursive=True) if child.name() == "java")
    java.kill()
    until(lambda: read_states(paths)[spark_driver.NAME].pid not in (0, pid), "a new process", within_s=STARTED_S)
    assert "error: Spark has ended by itself" in log.read_text()
