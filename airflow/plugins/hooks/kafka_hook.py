"""The Kafka connection as confluent-kafka takes it."""

from __future__ import annotations

from typing import Any

from airflow.providers.apache.kafka.hooks.base import KafkaBaseHook


class KafkaHook(KafkaBaseHook):
    """Gives jobs.kafka the configuration of a connection, its managed sign-in included."""

    def config(self) -> dict[str, Any]:
        """The connection's extra, with bootstrap.servers."""
        config = self._build_config()
        # What belongs to one consumer is decided by jobs.kafka, not by a connection that all share.
        return {name: value for name, value in config.items() if name not in ("group.id", "enable.auto.commit")}
