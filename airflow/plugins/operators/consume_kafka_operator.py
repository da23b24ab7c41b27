"""ConsumeKafka: claims what a group has still to do and stages it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats

from jobs.kafka.claim import holds_output
from jobs.kafka.consume import Limits, stage
from jobs.settings import Settings
from operators.base import DatastreamOperator


class ConsumeKafkaOperator(DatastreamOperator):
    """Stages the messages behind a group's committed offsets; skips the run where there are none.

    Args:
        topic: what to consume.
        group: consumer group; the DAG's id, so that it is found at once in Kafka's tools.
        output_topics: where the group's work shows. If the group has no committed offsets although there is output,
            the task fails instead of doing everything a second time.
        waits_for_messages: wait POLL_WAIT_S for a first message.
    """

    template_fields: Sequence[str] = ("topic", "output_topics")

    def __init__(
        self,
        *,
        topic: str,
        group: str,
        output_topics: Sequence[str],
        waits_for_messages: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topic = topic
        self.group = group
        self.output_topics = output_topics
        self.waits_for_messages = waits_for_messages

    def work(self, context: Context, settings: Settings) -> str:
        # Only one run is active: what earlier ones left behind is claimed anew, from the committed offsets.
        self.dag_folder(context, settings).delete_all_but(self.run_folder(context, settings))
        staged = stage(
            self.kafka,
            self.topic,
            self.group,
            self.folder(context, settings),
            Limits(settings.max_records_per_run, settings.chunk_records, settings.chunk_bytes),
            wait_s=settings.poll_wait_s if self.waits_for_messages else 0,
            is_planned=False,
            has_output=lambda client: any(holds_output(client, topic, self.topic) for topic in self.output_topics),
        )
        Stats.gauge(f"datastream.lag.{self.topic}", staged.lag)
        if staged.manifest is None:
            raise AirflowSkipException(f"Nothing new on {self.topic}.")
        self.log.info(
            "Staged %d messages of %s in %d chunks; the group was %d offsets behind",
            staged.manifest.records,
            self.topic,
            len(staged.manifest.chunks),
            staged.lag,
        )
        return staged.url
