"""The ledger tells what is lost, doubled or on its way: each figure counted at systems that hold just that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from jobs.kafka.replay import replay
from jobs.rides.ledger import lag
from tests.helpers import Raw, produce
from tests.integration.flow import Books


def test_all_through(books: Books) -> None:
    books.send(good=30, bad=4, twice=3)
    books.run()
    found = books.ledger()
    assert (found.raw, found.result, found.duplicates, found.dlq) == (37, 33, 3, 4)
    assert (found.elasticsearch, found.parquet, found.pending, found.in_flight) == (30, 33, 0, 0)
    assert found.dlq_by_reason == {"invalid_json": 4}
    assert (found.faults, found.balanced, found.exit_code) == ([], True, 0)


def test_on_its_way_to_the_price_and_to_the_sinks(books: Books) -> None:
    books.send(good=10)
    books.run()
    books.send(good=5)
    found = books.ledger()
    assert (found.pending, found.in_flight, found.balanced, found.exit_code) == (5, 0, True, 2)
    books.pricing.run()
    found = books.ledger()
    assert (found.pending, found.in_flight, found.balanced, found.exit_code) == (0, 5, True, 2)
    # Both sinks hold more than their groups have committed.
    written, staged = books.sinking.write(), books.exporting.staged()
    books.exporting.write(staged)
    found = books.ledger()
    assert (found.in_flight, found.balanced, found.exit_code) == (5, True, 2)
    books.sinking.commit(*written)
    found = books.ledger()
    assert (found.in_flight, found.balanced, found.exit_code) == (5, True, 2)
    books.exporting.commit(staged)
    found = books.ledger()
    assert (found.elasticsearch, found.parquet, found.in_flight, found.exit_code) == (15, 15, 0, 0)


def test_the_export_may_be_ahead_of_the_index(books: Books) -> None:
    books.send(good=10)
    books.run()
    produce(books.stack.kafka, books.pricing.result, [Raw(b"no result", b"k")])
    books.exporting.run()
    found = books.ledger()
    assert (found.in_flight, found.parquet) == (1, 10)
    assert [fault for fault in found.faults if "raw messages" not in fault] == []
    books.sinking.run()
    found = books.ledger()
    assert (found.in_flight, found.parquet, found.refused) == (0, 10, 1)
    assert [fault for fault in found.faults if "raw messages" not in fault] == []


def test_nothing_at_all_is_balanced(books: Books) -> None:
    assert books.ledger().exit_code == 0


def test_a_result_too_many(books: Books) -> None:
    books.send(good=10)
    books.run()
    twin = books.pricing.results()[0]
    produce(books.stack.kafka, books.pricing.result, [Raw(twin.value, twin.key)])
    books.sinking.run()
    found = books.ledger()
    assert found.exit_code == 1
    assert "10 raw messages are done with, but there are 11 results" in found.faults[0]


def test_a_document_too_few(books: Books) -> None:
    books.send(good=10)
    books.run()
    ride_id = next(iter(books.sinking.documents()))
    books.stack.elasticsearch.delete(index=books.sinking.index, id=ride_id, refresh=True)
    found = books.ledger()
    assert (found.elasticsearch, found.exit_code) == (9, 1)
    assert found.faults == ["Elasticsearch holds 9 rides, not 10"]


@pytest.mark.parametrize("fault", ["lost", "doubled"])
def test_an_object_too_few_or_too_many(books: Books, fault: str) -> None:
    books.send(good=10)
    books.run()
    bucket = books.stack.gcs.bucket(books.exporting.bucket)
    name, content = next(iter(books.exporting.objects().items()))
    if fault == "lost":
        bucket.blob(name).delete()
    else:
        bucket.blob(name.replace(".parquet", "-twin.parquet")).upload_from_string(content)
    found = books.ledger()
    assert found.exit_code == 1
    assert found.faults[0].startswith("Parquet holds")


def test_replayed_letters_are_counted_apart(books: Books) -> None:
    books.send(good=5, bad=3)
    books.run()
    sources = (books.pricing.source, books.pricing.result)
    assert replay(books.stack.kafka, books.pricing.dlq, sources, 1).sent.total() == 3
    assert replay(books.stack.kafka, books.pricing.dlq, sources, 1).sent.total() == 0
    books.pricing.run()
    found = books.ledger()
    assert (found.raw, found.dlq, found.replayed, found.exit_code) == (11, 6, 3, 0)
    assert replay(books.stack.kafka, books.pricing.dlq, sources, 1).left == 3


def test_refused_results_are_not_missed(books: Books) -> None:
    books.send(good=5)
    produce(books.stack.kafka, books.pricing.result, [Raw(b"no result", b"k")])
    books.run()
    found = books.ledger()
    # The odd message is a result that no raw message stands behind; the sinks themselves add up.
    assert (found.refused, found.parquet, found.elasticsearch) == (1, 5, 5)
    assert (found.dlq, found.dlq_by_reason) == (0, {})
    assert [fault for fault in found.faults if "raw messages" not in fault] == []


def test_retention_leaves_nothing_to_tell(books: Books) -> None:
    books.send(good=30)
    books.run()
    admin = AdminClient(books.stack.kafka)
    first = [TopicPartition(books.pricing.source, partition, 1) for partition in range(6)]
    # Waited for: a ledger that reads while records go cannot be taken.
    for deleted in admin.delete_records(first).values():
        deleted.result(30)
    found = books.ledger()
    assert found.raw < 30
    assert (found.balanced, found.exit_code) == (None, 3)


def test_lag_is_what_a_group_has_to_pass(books: Books, fresh_name: Callable[[str], str]) -> None:
    books.send(good=7)
    assert lag(books.stack.kafka, books.pricing.source, fresh_name("nobody")) == 7
    books.run()
    assert lag(books.stack.kafka, books.pricing.source, "dag_compute_cost") == 0
