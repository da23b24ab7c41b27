"""The services of the flights' tests without Cassandra, with new topics and an empty buffer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.flights.database import ADMIN, connect
from jobs.kafka.topics import load_topics
from jobs.settings import ROOT
from tests.testkit.stack import guarded
from tests.testkit.wait import until


@pytest.fixture(scope="session")
def running_flights() -> Iterator[Any]:
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["redis", "mysql", "kafka", "gcs", "postgres"])
        yield settings


@pytest.fixture
def flights(running_flights: Any, make_flights_topics: Callable[[], dict[str, str]]) -> Any:
    """The settings of empty stores and new topics."""
    empty_stores(running_flights)
    return running_flights.model_copy(update=make_flights_topics())


@pytest.fixture(scope="session")
def make_flights_topics(running_flights: Any) -> Callable[[], dict[str, str]]:
    """A function that makes the topics of flights.yml with new names, by setting."""
    admin = AdminClient({"bootstrap.servers": running_flights.bootstrap_servers, "log_level": 2})
    declared = load_topics(ROOT / "infra" / "kafka" / "topics" / "flights.yml", running_flights)

    def make() -> dict[str, str]:
        names = {topic.setting.lower(): f"{topic.name}-{uuid4().hex[:8]}" for topic in declared}
        new = [
            NewTopic(
                names[topic.setting.lower()],
                topic.partitions,
                1,
                config={name: str(value) for name, value in topic.config.items()},
            )
            for topic in declared
        ]
        for created in admin.create_topics(new).values():
            created.result(30)
        for topic in declared:
            name = names[topic.setting.lower()]
            until(
                lambda name=name, topic=topic: (
                    len(admin.list_topics(name, timeout=30).topics[name].partitions) == topic.partitions
                ),
                f"topic {name}",
            )
        return names

    return make


def empty_stores(settings: Any) -> None:
    with redis.Redis(port=settings.flights_redis_port, password=settings.flights_redis_password) as client:
        client.flushall()
    with connect(settings, ADMIN) as connection, connection.cursor() as cursor:
        for table in ("flights", "places", "airlines", "quota_ledger", "imported_files"):
            cursor.execute(f"TRUNCATE {table}")
