"""The relay of the flights: moves observations from Redis into the stores and to Kafka."""

from __future__ import annotations

import sys
from typing import Any

from infra.local.environment import export_settings
from infra.local.runner.health import TIMEOUT_S
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.clients import make_kafka_config, make_local_session
from jobs.kafka import topics
from jobs.settings import LOOPBACK, ROOT

NAME = "relay"
TOPICS = ROOT / "infra" / "kafka" / "topics" / "flights.yml"


def _build(settings: Any) -> tuple[Process]:
    process = Process(
        name=NAME,
        command=[sys.executable, "-m", "jobs", "flights", "relay"],
        environment={**export_settings(settings), "PYTHONUNBUFFERED": "1"},
        folder=Paths(settings.datastream_state).service(NAME),
    )
    return (process,)


def _make_topics(settings: Any) -> None:
    """The relay does not start without its topics."""
    topics.apply(make_kafka_config(settings), topics.load_topics(TOPICS, settings))


def _find_fault(settings: Any) -> str | None:
    answer = make_local_session().get(f"{_url(settings)}/metrics", timeout=TIMEOUT_S)
    answer.raise_for_status()
    if "datastream_flights_relay_up" not in answer.text:
        return f"port {SERVICE.port(settings)} belongs to another program"
    return None if "datastream_flights_relay_up 1.0" in answer.text else "waits for a service (see its log)"


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.flights_relay_port}"


SERVICE = Service(
    name=NAME,
    title="Relay",
    setting="FLIGHTS_RELAY_PORT",
    memory_mib=150,
    url=_url,
    expected_at=_url,
    build=_build,
    prepare=_make_topics,
    find_fault=_find_fault,
    after=("kafka", "redis", "mysql", "cassandra"),
)
