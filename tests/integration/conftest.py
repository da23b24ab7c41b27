"""Fixtures of both flows, each with its own topics, group, index and prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.files import Folder
from jobs.rides.vertical import COMPUTE_GROUP, EXPORT_GROUP, INDEX_GROUP
from tests.testkit.flow import Exporting, Pipeline, Pricing, Sinking
from tests.testkit.stack import Stack


@pytest.fixture
def pricing(
    stack: Stack, topic_factory: Callable[..., str], fresh_name: Callable[[str], str], tmp_path: Path
) -> Pricing:
    return Pricing(
        config=stack.kafka,
        group=fresh_name("pricing"),
        source=topic_factory("raw"),
        result=topic_factory("result"),
        dlq=topic_factory("dlq"),
        folder=Folder(f"file://{tmp_path}/staging"),
    )


@pytest.fixture
def sinking(
    stack: Stack,
    topic_factory: Callable[..., str],
    fresh_name: Callable[[str], str],
    index: str,
    tmp_path: Path,
) -> Sinking:
    return Sinking(
        config=stack.kafka,
        group=fresh_name("sinking"),
        source=topic_factory("result"),
        dlq=topic_factory("dlq"),
        folder=Folder(f"file://{tmp_path}/staging"),
        elasticsearch=stack.elasticsearch,
        index=index,
    )


@pytest.fixture
def exporting(stack: Stack, sinking: Sinking, prefix: str) -> Exporting:
    return Exporting(
        config=stack.kafka,
        group=f"{sinking.group}.PutGCP",
        source=sinking.source,
        dlq=sinking.dlq,
        folder=sinking.folder.child("PutGCP"),
        gcs=stack.gcs,
        bucket=stack.bucket,
        prefix=prefix,
    )


@pytest.fixture
def pipeline(stack: Stack, pricing: Pricing, sinking: Sinking, exporting: Exporting) -> Pipeline:
    pricing = replace(pricing, group=COMPUTE_GROUP)
    sinking = replace(sinking, group=INDEX_GROUP, source=pricing.result, dlq=pricing.dlq)
    exporting = replace(exporting, group=EXPORT_GROUP, source=pricing.result)
    return Pipeline(stack, pricing, sinking, exporting)
