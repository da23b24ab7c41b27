"""Only rides that are old enough and whose results Kafka has deleted are deleted from the index."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.clients import Systems
from jobs.errors import ConfigurationError
from jobs.rides.ops.retention import Expired, delete_expired
from jobs.rides.vertical import RidesSettings
from jobs.sinks.elasticsearch import delete_where
from tests.testkit.flow import Sinking
from tests.testkit.kafka import delete_all_records, produce
from tests.testkit.rides import keyed, result
from tests.testkit.stack import Stack
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(120)


def settings(stack: Stack, sinking: Sinking, **changes: Any) -> RidesSettings:
    names = {"rides_index": sinking.index, "result_topic": sinking.source, "rides_index_retention_days": 8}
    return stack.settings.model_copy(update=names | changes)


def expire(stack: Stack, sinking: Sinking, *, dry_run: bool = False, **changes: Any) -> Expired | None:
    return delete_expired(Systems(settings(stack, sinking, **changes), may_write=True), dry_run=dry_run)


def ingested(sinking: Sinking, ids: list[str], days: float) -> None:
    """Set the time of ingestion of these rides to some days ago."""
    moment = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    for ride_id in ids:
        sinking.elasticsearch.update(index=sinking.index, id=ride_id, doc={"agent_timestamp": moment}, refresh=True)


def test_expired_rides_are_deleted_after_their_kafka_records(stack: Stack, sinking: Sinking) -> None:
    produce(sinking.config, sinking.source, [keyed(result()) for _ in range(30)])
    sinking.run()
    before = sinking.documents()
    old = list(before)[:20]
    ingested(sinking, old, days=9)

    expired = expire(stack, sinking)
    assert expired is not None
    assert (expired.deleted, expired.waiting) == (0, 20), "the ledger would call them lost"
    assert set(sinking.documents()) == set(before)

    delete_all_records(sinking.config, sinking.source)
    expired = expire(stack, sinking, dry_run=True)
    assert expired is not None
    assert (expired.deleted, expired.waiting) == (20, 0)
    assert set(sinking.documents()) == set(before)

    expired = expire(stack, sinking)
    assert expired is not None
    assert (expired.deleted, expired.waiting) == (20, 0)
    assert set(sinking.documents()) == set(before) - set(old)
    expired = expire(stack, sinking)
    assert expired is not None
    assert (expired.deleted, expired.waiting) == (0, 0)


def test_without_retention_or_index_nothing_is_deleted(stack: Stack, sinking: Sinking) -> None:
    assert expire(stack, sinking, rides_index_retention_days=0) is None
    expired = expire(stack, sinking)
    assert expired is not None
    assert (expired.deleted, expired.waiting) == (0, 0)


def test_a_retention_shorter_than_that_of_the_topics_is_rejected(stack: Stack, sinking: Sinking) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"RETENTION_DAYS=7 .*{sinking.source} keeps results for 7 days.*lost"
    ):
        expire(stack, sinking, rides_index_retention_days=7)


def test_a_document_that_changes_during_the_deletion_is_kept(
    stack: Stack, sinking: Sinking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ride is sent again between the search and its deletion."""
    from jobs.sinks import elasticsearch as module

    ride = result()
    produce(sinking.config, sinking.source, [keyed(ride), keyed(result())])
    sinking.run()
    scan = module.scan

    def overtaken(*arguments: Any, **options: Any) -> Any:
        hits = list(scan(*arguments, **options))
        produce(sinking.config, sinking.source, [keyed(ride | {"price_total": 99.25})])
        sinking.run()
        return hits

    monkeypatch.setattr(module, "scan", overtaken)
    assert delete_where(sinking.elasticsearch, sinking.index, {"match_all": {}}) == 1
    until(lambda: len(sinking.documents()) == 1, "one is deleted")
    (document,) = sinking.documents().values()
    assert (document["ride_id"], document["price_total"]) == (ride["ride_id"], 99.25)
