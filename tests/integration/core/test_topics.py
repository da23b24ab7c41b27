"""Topics are created as declared, and an unreachable broker is reported in time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from jobs.errors import ServiceUnavailableError
from jobs.kafka import claim, offsets, publish, topics, transaction
from jobs.kafka.topics import Topic, alter, apply, load_topics
from jobs.rides.vertical import RidesSettings
from jobs.settings import ROOT
from tests.testkit.flow import Pricing
from tests.testkit.kafka import produce
from tests.testkit.rides import keyed, ride
from tests.testkit.stack import Stack
from tests.testkit.wait import until

TOPICS = ROOT / "infra" / "kafka" / "topics" / "rides.yml"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def names(fresh_name: Callable[[str], str]) -> dict[str, str]:
    return {setting: fresh_name(setting.lower()) for setting in ("RAW_TOPIC", "RESULT_TOPIC", "DLQ_TOPIC")}


@pytest.fixture
def wanted(names: dict[str, str]) -> list[Topic]:
    return load_topics(
        TOPICS,
        RidesSettings(**{setting.lower(): name for setting, name in names.items()}),
    )


def test_topics_are_created_once_as_declared(stack: Stack, wanted: list[Topic]) -> None:
    created, differences = apply(stack.kafka, wanted)
    assert sorted(created) == sorted(topic.name for topic in wanted)
    assert differences == []
    # A broker that has just created them may need a moment to describe them.
    assert apply(stack.kafka, wanted) == ([], [])
    held = AdminClient(stack.kafka).list_topics(timeout=10).topics
    assert {len(held[topic.name].partitions) for topic in wanted} == {6}


def test_differences_are_reported_and_not_changed(stack: Stack, wanted: list[Topic]) -> None:
    apply(stack.kafka, wanted[:2])
    other = [
        msgspec.structs.replace(wanted[0], partitions=8, config=wanted[0].config | {"retention.ms": 1000}),
        wanted[1],
        wanted[2],
    ]
    created, differences = apply(stack.kafka, other)
    assert created == [wanted[2].name]
    assert {(difference.topic, difference.what, difference.has, difference.declared) for difference in differences} == {
        (wanted[0].name, "partitions", "6", "8"),
        (wanted[0].name, "retention.ms", "604800000", "1000"),
    }
    assert apply(stack.kafka, wanted) == ([], [])


def test_existing_topics_are_altered_on_request(stack: Stack, wanted: list[Topic], names: dict[str, str]) -> None:
    """A topic of an earlier version has the senders' timestamps and no room for a mark."""
    raw = wanted[0]
    older = {"retention.ms": 604800000, "cleanup.policy": "delete"}
    apply(stack.kafka, [msgspec.structs.replace(raw, partitions=3, config=older)])
    _, differences = apply(stack.kafka, wanted)
    assert {difference.what for difference in differences} == {
        "partitions",
        "message.timestamp.type",
        "max.message.bytes",
    }
    assert [difference.what for difference in alter(stack.kafka, differences)] == ["partitions"]
    # The broker learns of it a moment after the controller has confirmed it.
    until(
        lambda: [(it.what, it.has) for it in apply(stack.kafka, wanted)[1]] == [("partitions", "3")],
        "all differences but the partitions to be gone",
    )
    admin = AdminClient(stack.kafka)
    (answer,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, raw.name)]).values()
    assert answer.result(10)["message.timestamp.type"].value == "LogAppendTime"
    assert answer.result(10)["cleanup.policy"].value == "delete", "other settings stay"


def test_the_command_alters_topics_only_with_apply(stack: Stack, wanted: list[Topic], names: dict[str, str]) -> None:
    raw = wanted[0]
    apply(stack.kafka, [msgspec.structs.replace(raw, config={}), *wanted[1:]])

    def topics(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "jobs", "topics", *arguments],
            cwd=ROOT, env={**os.environ, **names, "COLUMNS": "150"}, capture_output=True, text=True, check=True,
            timeout=60,
        )  # fmt: skip
        return done.stdout

    for _ in range(2):
        told = topics()
        assert "message.timestamp.type is CreateTime, declared LogAppendTime" in told
        assert "Existing topics were not altered. `make topics APPLY=1`" in told
    assert "message.timestamp.type was CreateTime, is LogAppendTime now" in topics("--apply")
    rows = [row for row in topics().splitlines() if any(name in row for name in names.values())]
    assert len(rows) == 3
    assert all("as declared" in row for row in rows)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (claim, offsets, topics, transaction, publish):
        if hasattr(module, "REQUEST_TIMEOUT_S"):
            monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 2.0)


@pytest.fixture
def nowhere() -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", ["stage", "publish", "offsets", "topics"])
def test_an_unreachable_broker_is_reported_within_15_seconds(
    pricing: Pricing, nowhere: dict[str, Any], wanted: list[Topic], step: str
) -> None:
    produce(pricing.config, pricing.source, [keyed(ride()) for _ in range(5)])
    computed = pricing.computed()
    real, pricing.config = pricing.config, nowhere
    began = time.monotonic()
    steps: dict[str, Callable[[], object]] = {
        "stage": pricing.stage,
        "publish": lambda: pricing.publish(computed),
        "offsets": pricing.offsets,
        "topics": lambda: apply(nowhere, wanted),
    }
    with pytest.raises(ServiceUnavailableError, match=rf"Kafka at {nowhere['bootstrap.servers']}.*make local-status"):
        steps[step]()
    assert time.monotonic() - began < 15
    pricing.config = real
    assert set(pricing.offsets().values()) == {None}
    assert pricing.publish(computed).results == 5
