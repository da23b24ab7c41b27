"""Flows that all examples of a module share, and the number of examples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings

from jobs.files import Folder
from jobs.kafka.claim import Limits
from jobs.rides.vertical import TEMPLATE
from jobs.sinks.elasticsearch import apply_template
from tests.fuzz.messages import PARTITIONS
from tests.fuzz.outcome import Tails
from tests.fuzz.tail import tail
from tests.testkit.flow import Exporting, Pricing, Sinking
from tests.testkit.stack import Stack

# `make test-input EXAMPLES=…`; each is a batch of messages that goes through the real services.
EXAMPLES = int(os.environ.get("EXAMPLES") or 8)

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Shrinking takes thousands of round trips. A failure shows its message, and SEED repeats it.
    phases=[Phase.explicit, Phase.generate],
)


@pytest.fixture(scope="module")
def pricing(stack: Stack, topic_factory: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Pricing:
    return Pricing(
        config=stack.kafka,
        group=f"pricing-{uuid4().hex[:8]}",
        source=topic_factory("raw", PARTITIONS),
        result=topic_factory("result", PARTITIONS),
        dlq=topic_factory("dlq", PARTITIONS),
        folder=_folder(tmp_path_factory),
        limits=Limits(run_records=1_000_000, chunk_records=7, chunk_bytes=2**20),
    )


@pytest.fixture(scope="module")
def tails(pricing: Pricing) -> Iterator[Tails]:
    """New messages on rides_raw, rides_result and rides_dlq."""
    with (
        tail(pricing.config, pricing.source) as raw,
        tail(pricing.config, pricing.result) as result,
        tail(pricing.config, pricing.dlq) as dlq,
    ):
        yield raw, result, dlq


@pytest.fixture(scope="module")
def sinking(
    stack: Stack, topic_factory: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sinking]:
    index = f"rides-{uuid4().hex[:8]}"
    apply_template(stack.elasticsearch, index, TEMPLATE)
    yield Sinking(
        config=stack.kafka,
        group=f"sinking-{uuid4().hex[:8]}",
        # One partition orders the messages of a ride_id: the newest offset is in the index.
        source=topic_factory("result", 1),
        dlq=topic_factory("dlq", PARTITIONS),
        folder=_folder(tmp_path_factory),
        limits=Limits(run_records=1_000_000, chunk_records=7, chunk_bytes=2**20),
        elasticsearch=stack.elasticsearch,
        index=index,
    )
    stack.elasticsearch.indices.delete(index=index, ignore_unavailable=True)


@pytest.fixture(scope="module")
def exporting(stack: Stack, sinking: Sinking) -> Exporting:
    return Exporting(
        config=stack.kafka,
        group=f"{sinking.group}.PutGCP",
        source=sinking.source,
        dlq=sinking.dlq,
        folder=sinking.folder.child("PutGCP"),
        limits=sinking.limits,
        gcs=stack.gcs,
        bucket=stack.bucket,
    )


def _folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path: Path = tmp_path_factory.mktemp("staging")
    return Folder(path.as_uri())
