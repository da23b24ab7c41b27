"""Retention of the index `rides`. It is one index, so old documents are deleted by query.

infra/cleanup.py deletes Airflow's old rows and logs. The bucket's lifecycle rules delete old objects.
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
from jobs.sinks.elasticsearch import delete_where, translate_errors

_DAY_MS = 24 * 60 * 60 * 1000


class Expired(msgspec.Struct, frozen=True):
    """Rides ingested before `before`: how many were deleted, and how many wait until Kafka deletes their results."""

    before: datetime
    deleted: int
    waiting: int


def compute_expiry(settings: RidesSettings) -> datetime | None:
    """Compute the time before which ingested rides expire; None if all are kept."""
    days = settings.rides_index_retention_days
    return datetime.now(UTC) - timedelta(days=days) if days else None


def delete_expired(systems: Systems[RidesSettings], *, dry_run: bool) -> Expired | None:
    """Delete rides by agent_timestamp, the time of their ingestion. Return None if all are kept.

    Rides whose results are still in Kafka stay, because the ledger would count them as lost. (Kafka deletes whole
    segments, so results stay longer than retention.ms.)

    Args:
        dry_run: only count.

    Raises:
        ConfigurationError: the index would keep rides no longer than Kafka keeps results.
        ServiceUnavailableError: not all were deleted. It is safe to repeat.
    """
    settings, config, elasticsearch = systems.settings, systems.config, systems.elasticsearch
    before = compute_expiry(settings)
    if before is None:
        return None
    topic, index = settings.result_topic, settings.rides_index
    with translate_broker_errors(config, f"reading {topic}"), open_consumer(config, "retention") as client:
        topic_bounds = read_bounds(config, client, topic, list_partitions(client, topic))
        _check_longer_than_topic(settings, config)
    is_old: dict[str, Any] = {"range": {"agent_timestamp": {"lt": before.isoformat()}}}
    query = {"bool": {"filter": [is_old, _build_deleted_in_kafka_query(topic_bounds)]}}
    with translate_errors(elasticsearch, f"counting {index}"):
        old = elasticsearch.count(index=index, query=is_old, ignore_unavailable=True)["count"]
        deleted = elasticsearch.count(index=index, query=query, ignore_unavailable=True)["count"]
    if not dry_run:
        deleted = delete_where(elasticsearch, index, query)
    return Expired(before, deleted, old - deleted)


def _build_deleted_in_kafka_query(topic_bounds: dict[int, Bounds]) -> dict[str, Any]:
    by_partition = [
        {"bool": {"filter": [{"term": {"kafka_partition": partition}}, {"range": {"kafka_offset": {"lt": bound.low}}}]}}
        for partition, bound in topic_bounds.items()
    ]
    return {"bool": {"should": by_partition, "minimum_should_match": 1}}


def _check_longer_than_topic(settings: RidesSettings, config: Config) -> None:
    topic = ConfigResource(ResourceType.TOPIC, settings.result_topic)
    admin = AdminClient({**QUIET, **config})  # the answer is lost if the client is deleted first
    answer = admin.describe_configs([topic], request_timeout=REQUEST_TIMEOUT_S)[topic].result()
    topic_ms = int(answer["retention.ms"].value)
    if topic_ms < 0 or settings.rides_index_retention_days * _DAY_MS <= topic_ms:
        period = "for ever" if topic_ms < 0 else f"for {topic_ms / _DAY_MS:g} days"
        raise ConfigurationError(
            f"RIDES_INDEX_RETENTION_DAYS={settings.rides_index_retention_days} is too low: {settings.result_topic} "
            f"keeps results {period}, and the ledger counts results without documents as lost rides. Set more days, "
            "or 0 to keep all."
        )
