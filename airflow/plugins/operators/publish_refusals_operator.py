"""PublishDeadLetters: publishes the refusals of the load, and lets the Kafka group follow the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from jobs.shop.vertical import ShopSettings
from operators.base import DatastreamOperator


class PublishRefusalsOperator(DatastreamOperator):
    """Publishes dead letters and commits the database's positions, in one transaction of Kafka.

    Args:
        topic: topic that was loaded.
        group: consumer group that follows the database.
        dlq_topic: topic for dead letters.
    """

    template_fields: Sequence[str] = ("topic", "dlq_topic")

    def __init__(self, *, topic: str, group: str, dlq_topic: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topic = topic
        self.group = group
        self.dlq_topic = dlq_topic

    def work(self, context: Context, settings: ShopSettings) -> None:
        from jobs.shop.dead_letters import publish_refusals
        from jobs.shop.load import open_loader

        with open_loader(settings) as connection:
            followed = publish_refusals(
                self.kafka,
                connection,
                topic=self.topic,
                group=self.group,
                dlq_topic=self.dlq_topic,
                dag_id=self.dag_id,
            )
        self.locate_run_folder(context, settings).delete()
        self.log.info("Committed %s, published %d dead letters", followed.offsets, followed.refused.total())
