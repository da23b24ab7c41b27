"""A short fault campaign with Airflow; `make test-faults` runs the long one."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.faults.campaign import Campaign
from tests.faults.environment import prepared
from tests.faults.faults import TARGETS

pytestmark = pytest.mark.timeout(900)

# One fault of the first DAG, one of the second, one of both. With this seed the publisher is killed between two chunks.
CHOSEN = ("compute.PublishKafka", "index.PutElasticSearch", "kafka")
SEED = 2


def test_nothing_is_lost_or_doubled_when_tasks_and_the_broker_are_killed() -> None:
    with prepared(SEED, "python", Console()) as environment:
        played = Campaign(environment, print).play(SEED, [TARGETS[name] for name in CHOSEN])
    assert played.differences == [], f"make test-faults ROUNDS=1 SEED={SEED} TARGETS={','.join(CHOSEN)}"
    hits = {hit.target: hit for hit in played.hits}
    assert sorted(hits) == sorted(CHOSEN)
    assert all(hit.glimpses[0].is_at_work for hit in played.hits), played.hits
    publisher = hits["compute.PublishKafka"]
    assert 0 < publisher.details["chunks_committed"] < publisher.details["chunks"]
    for hit in (publisher, hits["index.PutElasticSearch"]):
        ((killed, *_),) = hit.airflow.values()
        assert killed["state"] == "failed", hit
    assert played.results == played.rows == played.good > 500
    assert played.dead_letters == played.bad > 10
    assert played.documents < played.good, "duplicates are one document"
