"""Two engines and one group: only its owner publishes. A task of the stream publishes once, whatever Spark repeats.

The tasks run here without Spark, on rows as its Kafka source returns them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka import transaction
from jobs.kafka.engine import check_engine
from jobs.kafka.offsets import Committed, open_group_reader, read_topic_id
from jobs.kafka.set_offsets import preview_moves, set_offsets
from jobs.kafka.switch_engine import switch_engine
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.rides.spark.publish import Publisher, Range
from jobs.vertical import Engine
from tests.testkit.flow import Pricing
from tests.testkit.kafka import Raw, Record, aborted, produce, read_all
from tests.testkit.rides import keyed, ride

pytestmark = pytest.mark.timeout(120)

OTHER: dict[Engine, Engine] = {"python": "spark", "spark": "python"}
# Spark's Kafka source with includeHeaders.
ROWS = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("timestampType", pa.int32()),
        ("headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
    ]
)


def make_rows(topic: str, records: Iterable[Record]) -> list[pa.RecordBatch]:
    """The records as batches of two."""
    rows: list[dict[str, Any]] = [
        {
            **{name: getattr(record, name) for name in ("key", "value", "partition", "offset")},
            "topic": topic,
            "timestamp": datetime.now(UTC),
            "timestampType": 0,
            "headers": [{"key": key, "value": value} for key, value in record.headers or []] or None,
        }
        for record in records
    ]
    return [pa.RecordBatch.from_pylist(rows[start : start + 2], ROWS) for start in range(0, len(rows), 2)]


def rides(count: int, partition: int) -> list[Raw]:
    return [keyed(ride())._replace(partition=partition) for _ in range(count)]


class Sparking:
    """Tasks of the stream, for the group and the topics of a `Pricing`."""

    def __init__(self, pricing: Pricing) -> None:
        self.pricing = pricing

    def publisher(self, ranges: dict[int, Range]) -> Publisher:
        pricing = self.pricing
        topic_id = read_topic_id(pricing.config, pricing.source)
        return Publisher(
            pricing.config, pricing.group, pricing.source, topic_id, pricing.outlet, "haversine", ranges
        )  # fmt: skip

    def task(self, start: int | None, end: int, partition: int = 0) -> Callable[[], list[pa.RecordBatch]]:
        """A task with the messages of a range, which Spark has read already."""
        publisher = self.publisher({partition: Range(start, end)})
        records = [
            record
            for record in read_all(self.pricing.config, self.pricing.source)
            if record.partition == partition and (start or 0) <= record.offset < end
        ]
        rows = make_rows(self.pricing.source, records)
        return lambda: list(publisher.publish_rows(iter(rows)))


@pytest.fixture
def sparking(pricing: Pricing) -> Sparking:
    """A group that Python has used on all partitions, and that Spark owns now. Partition 0 is at offset 2."""
    produce(pricing.config, pricing.source, rides(2, 0))
    pricing.run()
    assert switch_engine(pricing.config, pricing.source, pricing.group, "spark") == list(range(6))
    return Sparking(pricing)


def switch(pricing: Pricing, to: Engine) -> list[int]:
    return switch_engine(pricing.config, pricing.source, pricing.group, to)


def owners(pricing: Pricing) -> set[Engine]:
    with open_group_reader(pricing.config, pricing.source, pricing.group) as reader:
        return {committed.engine for committed in reader.read_committed().values()}


def assert_once(pricing: Pricing) -> None:
    """Each ride of the source is one result."""
    sent = Counter(record.key for record in read_all(pricing.config, pricing.source))
    assert Counter(record.key for record in pricing.results()) == sent


# --- The owner of a group -------------------------------------------------------------------------


def test_a_switch_keeps_the_offsets(sparking: Sparking) -> None:
    pricing = sparking.pricing
    before = pricing.offsets()
    for to in ("python", "spark", "python"):
        assert switch(pricing, to) == list(range(6))
        assert switch(pricing, to) == []
        assert (owners(pricing), pricing.offsets()) == ({to}, before)
    produce(pricing.config, pricing.source, rides(3, 0))
    assert pricing.run().results == 3
    assert_once(pricing)


@pytest.mark.parametrize("wakes", ["before init_transactions", "after init_transactions", "after the offset read"])
@pytest.mark.parametrize("owner", ["python", "spark"])
def test_a_zombie_of_the_old_engine_publishes_nothing(
    sparking: Sparking, monkeypatch: pytest.MonkeyPatch, owner: Engine, wakes: str
) -> None:
    pricing = sparking.pricing
    switch(pricing, owner)
    produce(pricing.config, pricing.source, rides(4, 0))
    if owner == "python":
        computed = pricing.computed()
        zombie: Callable[[], object] = lambda: pricing.publish(computed)  # noqa: E731
    else:
        zombie = sparking.task(2, 6)

    def switch_once(method: str) -> None:
        """Switch the engine when the zombie calls a method of its writer."""
        real = getattr(GroupWriter, method)

        def late(writer: GroupWriter, *arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(GroupWriter, method, real)
            switch(pricing, OTHER[owner])
            return real(writer, *arguments, **options)

        monkeypatch.setattr(GroupWriter, method, late)

    if wakes == "before init_transactions":
        switch(pricing, OTHER[owner])
    elif wakes == "after init_transactions":
        switch_once("read_committed")
    else:
        switch_once("transaction")
    with pytest.raises((ConfigurationError, ServiceUnavailableError), match=r"belongs to|newer worker"):
        zombie()
    assert len(pricing.results()) == 2

    if owner == "python":
        sparking.task(2, 6)()
    else:
        pricing.run()
    assert_once(pricing)


@pytest.mark.parametrize("to", ["python", "spark"])
def test_an_interrupted_switch_stops_both_engines_until_it_is_run_again(
    sparking: Sparking, monkeypatch: pytest.MonkeyPatch, to: Engine
) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(4, 0))
    real = GroupWriter.transaction

    def die_at_partition_2(writer: GroupWriter, offsets: dict[int, int], *arguments: Any, **options: Any) -> Any:
        if 2 in offsets:
            raise KeyboardInterrupt
        return real(writer, offsets, *arguments, **options)

    monkeypatch.setattr(GroupWriter, "transaction", die_at_partition_2)
    with pytest.raises(KeyboardInterrupt):
        switch(pricing, "python")
    monkeypatch.setattr(GroupWriter, "transaction", real)
    assert owners(pricing) == {"python", "spark"}
    with pytest.raises(ConfigurationError, match=r"interrupted.*python 0 1, spark 2 3 4 5.*make engine TO=python"):
        pricing.stage()
    with pytest.raises(ConfigurationError, match="belongs to the DAG, not to Spark"):
        sparking.task(2, 6)()
    assert len(pricing.results()) == 2

    assert switch(pricing, to) == ([2, 3, 4, 5] if to == "python" else [0, 1])
    if to == "python":
        pricing.run()
    else:
        sparking.task(2, 6)()
    assert_once(pricing)


def test_a_group_without_offsets_has_no_owner_to_change(pricing: Pricing) -> None:
    with pytest.raises(OffsetsError, match=r"no committed offset on raw-\w+\[0, 1, 2, 3, 4, 5\]"):
        switch(pricing, "spark")


def test_the_dag_refuses_a_group_of_spark(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(1, 0))
    with pytest.raises(ConfigurationError, match=r"belongs to Spark, not to the DAG.*make engine TO=python"):
        pricing.stage()


def test_make_offsets_keeps_the_owner(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(1, 0))
    task = sparking.task(2, 3)
    pricing.set_offsets("beginning")
    assert owners(pricing) == {"spark"}
    assert pricing.offsets() == dict.fromkeys(range(6), 0)
    with pytest.raises(OffsetsError, match=r"begins at offset 2, but group .* is at 0"):
        task()


def test_make_offsets_makes_spark_the_owner_of_its_own_group(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(1, 0))
    moves = preview_moves(
        pricing.config, pricing.source, pricing.group, "beginning", topic_ids=pricing.topic_ids, engine="spark"
    )
    set_offsets(pricing.config, moves, pricing.topic_ids)
    assert owners(pricing) == {"spark"}


def test_offsets_of_an_earlier_topic_are_not_handed_over(sparking: Sparking) -> None:
    pricing = sparking.pricing
    with open_group_writer(pricing.config, pricing.group, pricing.source, 1, partition=1) as writer:
        writer.topic_id = "the-id-before"
        with writer.transaction({1: 0}):
            pass
    with pytest.raises(OffsetsError, match=r"\[1\]: group .* of an earlier topic with this name"):
        switch(pricing, "python")
    assert owners(pricing) == {"spark"}


def test_offsets_of_earlier_versions_belong_to_the_dag() -> None:
    for metadata in ("", '{"end": 3, "chunk_records": 1, "chunk_bytes": 1}', "another tool's"):
        check_engine("raw", "group", {0: Committed(3, metadata), 1: Committed(None)}, "python")


# --- A task of the stream -------------------------------------------------------------------------


def test_a_repeated_task_publishes_once(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, [*rides(3, 0), Raw(b"bad", b"k", [("h", b"\xff")], partition=0)])
    task = sparking.task(2, 6)
    reports = [task()[0].to_pylist(), task()[0].to_pylist()]
    assert reports == [
        [{"partition": 0, "results": 3, "rejects": 1}],
        [{"partition": 0, "results": 0, "rejects": 0}],
    ]
    assert len(pricing.results()) == 5
    (letter,) = pricing.dead_letters()
    assert (letter.key, letter.value, (letter.headers or [])[:1]) == (b"k", b"bad", [("h", b"\xff")])
    assert (letter.error["topic"], letter.error["partition"], letter.error["offset"]) == (pricing.source, "0", "5")
    assert pricing.offsets()[0] == 6


def test_a_newer_task_fences_an_older_one(sparking: Sparking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A speculative task starts while the first one sends its second batch."""
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(6, 0))
    older, newer = sparking.task(2, 8), sparking.task(2, 8)
    real, calls = GroupWriter.transaction, []

    def overtaken(writer: GroupWriter, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            monkeypatch.setattr(GroupWriter, "transaction", real)
            assert newer()[0].to_pylist()[0]["results"] == 4
        return real(writer, *arguments, **options)

    monkeypatch.setattr(GroupWriter, "transaction", overtaken)
    with pytest.raises(ServiceUnavailableError, match="newer worker"):
        older()
    assert calls == [({0: 4},), ({0: 6},)]
    assert_once(pricing)


def test_a_batch_that_begins_behind_the_group_is_cut(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(3, 0))
    assert sparking.task(0, 5)()[0].to_pylist() == [{"partition": 0, "results": 3, "rejects": 0}]
    assert_once(pricing)


def test_a_batch_that_begins_after_the_group_is_refused(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(3, 0))
    with pytest.raises(OffsetsError, match=r"\[0\]: the batch begins at offset 3, but group .* is at 2"):
        sparking.task(3, 5)()
    assert len(pricing.results()) == 2


def test_a_range_without_messages_is_committed(sparking: Sparking) -> None:
    pricing = sparking.pricing
    aborted(pricing.config, pricing.source, rides(3, 0))
    sparking.publisher({0: Range(2, 6)}).commit_end(0)
    assert pricing.offsets()[0] == 6
    assert_once(pricing)


def test_messages_of_another_range_are_refused(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, [*rides(2, 0), *rides(2, 1)])
    rows = make_rows(pricing.source, read_all(pricing.config, pricing.source))
    with pytest.raises(ValueError, match=r"\[0\] 2 to 4: the task got messages 0 to 1"):
        list(sparking.publisher({0: Range(2, 4), 1: Range(0, 2)}).publish_rows(iter(rows)))
    assert len(pricing.results()) == 2


def test_a_lost_offset_is_not_taken_for_a_new_partition(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(2, 0))
    with pytest.raises(OffsetsError, match="has no committed offset"):
        Sparking(pricing).task(0, 2)()
    assert Sparking(pricing).task(None, 2)()[0].to_pylist()[0]["results"] == 2


@contextmanager
def killed_task(pricing: Pricing, partition: int) -> Iterator[None]:
    """A task that was killed before its commit has left its transaction open, with the offset of its partition."""
    with open_group_writer(
        pricing.config, pricing.group, pricing.source, 1, partition=partition, transaction_timeout_s=100
    ) as writer:
        writer._producer.begin_transaction()
        for client in writer.reader.writers:
            position = transaction.TopicPartition(pricing.source, partition, 0)
            writer._producer.send_offsets_to_transaction([position], client.consumer_group_metadata(), 30)
        yield


def test_a_task_does_not_wait_for_killed_tasks_of_other_partitions(sparking: Sparking) -> None:
    pricing = sparking.pricing
    produce(pricing.config, pricing.source, rides(1, 0))
    with killed_task(pricing, 3):
        sparking.task(2, 3)()
        # Ends the transaction, so that the group can be read.
        sparking.publisher({3: Range(0, 0)}).commit_end(3)
    assert_once(pricing)


def test_a_switch_does_not_wait_for_killed_tasks(sparking: Sparking) -> None:
    pricing = sparking.pricing
    with killed_task(pricing, 0), killed_task(pricing, 3):
        assert switch(pricing, "python") == list(range(6))
    produce(pricing.config, pricing.source, rides(1, 0))
    pricing.run()
    assert_once(pricing)
