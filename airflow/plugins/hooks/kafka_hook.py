"""The hook for Kafka."""

from __future__ import annotations

from typing import Any

from airflow.providers.apache.kafka.hooks.base import KafkaBaseHook


class KafkaHook(KafkaBaseHook):
    """Returns the configuration of a connection for jobs.kafka, including managed authentication."""

    def read_config(self) -> dict[str, Any]:
        """The connection's extra, with bootstrap.servers."""
        config = self._build_config()
        # jobs.kafka sets these for each consumer; the connection is shared by all tasks.
        return {name: value for name, value in config.items() if name not in ("group.id", "enable.auto.commit")}
