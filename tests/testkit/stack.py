"""Clients of the running services, topics, and a guardian that stops services when the tests are killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.settings import ROOT, Settings, load
from jobs.verticals import load_declared_topics, merge_settings
from tests.testkit.wait import until

# For services that live for minutes: a Java that compiles less takes less time in all.
QUICK_JAVA = "-XX:TieredStopAtLevel=1"
# Waits until this process ends in any way (pytest-timeout ends it at once), then stops the services that it left.
GUARDIAN = """
import shutil, sys
from infra.local.services.catalog import local_stack
from jobs.settings import Settings

sys.stdin.read()
local_stack(Settings(datastream_state=sys.argv[1])).down()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def start_guardian(state: Path) -> subprocess.Popen[bytes]:
    """Start a process that stops the services of a state folder, and deletes it, when its standard input closes."""
    command = [sys.executable, "-c", GUARDIAN, str(state)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True)


@contextmanager
def guarded(state: Path) -> Iterator[None]:
    """Stop the services of a state folder and delete it afterwards, even if this process is killed meanwhile."""
    guardian = start_guardian(state)
    try:
        yield
    finally:
        guardian.communicate(timeout=120)


@dataclass(frozen=True)
class Stack:
    """Running services, and clients of them."""

    settings: Settings
    kafka: dict[str, Any]
    elasticsearch: Any
    gcs: Any

    @property
    def bootstrap_servers(self) -> str:
        return self.settings.bootstrap_servers

    @property
    def bucket(self) -> str:
        return self.settings.bucket


# The controller fences a broker whose heartbeats come late, as on a machine that stands still, until the next ones.
FENCED_S = 120
# The topics that the functions of `make_topic_factory` have created, by client.
_created: dict[Any, list[str]] = {}


def delete_created_topics() -> None:
    """Delete the topics of a module that is done: a broker with thousands of partitions runs out of memory."""
    from confluent_kafka import KafkaException

    while _created:
        admin, names = _created.popitem()
        for deleted in admin.delete_topics(names, request_timeout=5).values():
            with suppress(KafkaException):  # a test has stopped this broker or deleted the topic
                deleted.result()


def _create(admin: Any, topic: Any) -> bool:
    """Create a topic; returns whether a broker was there to take it."""
    from confluent_kafka import KafkaError, KafkaException

    try:
        admin.create_topics([topic])[topic.topic].result(30)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.INVALID_REPLICATION_FACTOR:
            raise
        return False
    return True


def make_topic_factory(config: dict[str, Any]) -> Callable[..., str]:
    """A function that creates topics with new names and the declared settings of rides_raw, rides_result or rides_dlq.

    The prefix of the name selects the settings: raw, result or dlq; others have those of rides_raw.
    """
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({**config, "log_level": 2})  # silent when its broker stops
    settings = {topic.setting: topic for topic in load_declared_topics(load(merge_settings()))}

    def make(prefix: str, partitions: int = 6) -> str:
        name = f"{prefix}-{uuid4().hex[:8]}"
        setting = next((name for name in settings if name.split("_")[0].lower() in prefix), "RAW_TOPIC")
        config = {key: str(value) for key, value in settings[setting].config.items()}
        until(lambda: _create(admin, NewTopic(name, partitions, 1, config=config)), f"topic {name}", FENCED_S)
        _created.setdefault(admin, []).append(name)
        # The controller knows it; the broker learns of it a moment later.
        until(
            lambda: len(admin.list_topics(name, timeout=30).topics[name].partitions) == partitions,
            f"topic {name}",
            FENCED_S,
        )
        return name

    return make
