"""Retention of the index `rides`: it holds one document per ride, so old ones are deleted one by one.

Airflow's own leftovers are infra/cleanup.py's; objects on Cloud Storage expire by the bucket's lifecycle rules.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from jobs.clients import Systems
from jobs.errors import ConfigurationError
from jobs.kafka.client import QUIET, REQUEST_TIMEOUT_S, Config, open_consumer, translate_broker_errors
from jobs.kafka.offsets import Bounds, list_partitions, read_bounds
from jobs.rides.vertical import RidesSettings
from jobs.sinks.elasticsearch import delete_where, explained

_DAY_MS = 24 * 60 * 60 * 1000


class Expired(msgspec.Struct, frozen=True):
    """Rides that were ingested before `before`: how many were deleted, how many stay until Kafka deletes theirs."""

    before: datetime
    deleted: int
    waiting: int


def expiry(settings: RidesSettings) -> datetime | None:
    """Rides that were ingested before this moment are to be deleted; None: all are kept."""
    days = settings.rides_index_retention_days
    return datetime.now(UTC) - timedelta(days=days) if days else None


def delete_expired(systems: Systems[RidesSettings], *, dry_run: bool) -> Expired | None:
    """Delete rides by agent_timestamp, the time of their ingestion; None where all are kept.

    A ride whose result Kafka still holds stays in any case: the ledger would call it lost. (Kafka deletes by segments,
    so results live longer than retention.ms.)

    Args:
        dry_run: only count.

    Raises:
        ConfigurationError: the index would keep rides no longer than Kafka their results.
        ServiceUnavailableError: not all were deleted; doing it again is harmless.
    """
    settings, config, elasticsearch = systems.settings, systems.config, systems.elasticsearch
    before = expiry(settings)
    if before is None:
        return None
    topic, index = settings.result_topic, settings.rides_index
    with translate_broker_errors(config, f"reading {topic}"), open_consumer(config, "retention") as client:
        within = read_bounds(config, client, topic, list_partitions(client, topic))
        _check_longer_than_topic(settings, config)
    is_old: dict[str, Any] = {"range": {"agent_timestamp": {"lt": before.isoformat()}}}
    query = {"bool": {"filter": [is_old, _is_deleted_in_kafka(within)]}}
    with explained(elasticsearch, f"counting {index}"):
        old = elasticsearch.count(index=index, query=is_old, ignore_unavailable=True)["count"]
        deleted = elasticsearch.count(index=index, query=query, ignore_unavailable=True)["count"]
    if not dry_run:
        deleted = delete_where(elasticsearch, index, query)
    return Expired(before, deleted, old - deleted)


def _is_deleted_in_kafka(within: dict[int, Bounds]) -> dict[str, Any]:
    by_partition = [
        {"bool": {"filter": [{"term": {"kafka_partition": it}}, {"range": {"kafka_offset": {"lt": found.low}}}]}}
        for it, found in within.items()
    ]
    return {"bool": {"should": by_partition, "minimum_should_match": 1}}


def _check_longer_than_topic(settings: RidesSettings, config: Config) -> None:
    topic = ConfigResource(ResourceType.TOPIC, settings.result_topic)
    admin = AdminClient({**QUIET, **config})  # kept until the answer is there
    answer = admin.describe_configs([topic], request_timeout=REQUEST_TIMEOUT_S)[topic].result()
    topic_ms = int(answer["retention.ms"].value)
    if topic_ms < 0 or settings.rides_index_retention_days * _DAY_MS <= topic_ms:
        kept = "for ever" if topic_ms < 0 else f"{topic_ms / _DAY_MS:g} days"
        raise ConfigurationError(
            f"RIDES_INDEX_RETENTION_DAYS={settings.rides_index_retention_days}: {settings.result_topic} keeps results "
            f"{kept}, and the ledger would call rides lost whose results are there and whose documents are not. Set it "
            "to more days than that, or to 0 to keep all."
        )
