"""A short fault campaign with Airflow at work; `make test-faults` plays the long one."""

from __future__ import annotations

import random

import pytest
from rich.console import Console

from tests.faults.campaign import Campaign
from tests.faults.faults import TARGETS
from tests.faults.ground import prepared

pytestmark = pytest.mark.timeout(900)

# One fault of the first DAG, one of the second, one of both.
CHOSEN = ("compute.PublishKafka", "index.PutElasticSearch", "kafka")


def test_nothing_is_lost_or_doubled_when_tasks_and_the_broker_are_killed() -> None:
    seed = random.randrange(10**6)
    with prepared(seed, Console()) as ground:
        found = Campaign(ground, print).play(seed, [TARGETS[name] for name in CHOSEN])
    again = f"make test-faults ROUNDS=1 SEED={seed} TARGETS={','.join(CHOSEN)}"
    assert found.faults == [], again
    assert sorted(hit.target for hit in found.hits) == sorted(CHOSEN)
    assert found.results == found.rows == found.good > 500
    assert found.dead_letters == found.bad > 10
    assert found.documents < found.good, "duplicates are one document"
    for hit in found.hits:
        assert hit.glimpses[0].is_at_work, hit
        if hit.target != "kafka":
            ((killed, *_),) = hit.airflow.values()
            assert killed["state"] == "failed", hit
