"""ConsumeKafka: claims the new messages of a group and stages them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats
from confluent_kafka import Consumer

from jobs.errors import ConfigurationError
from jobs.kafka.claim import Claimed, Limits, claim, describe_claims, holds_dead_letters, holds_results
from jobs.kafka.offsets import SETTLE_S, GroupReader, open_group_reader
from jobs.kafka.stage import stage, write_claim
from jobs.settings import check_distinct
from jobs.vertical import Engine
from operators.base import DatastreamOperator


class ConsumeKafkaOperator(DatastreamOperator):
    """Stages the messages after a group's committed offsets. Without new messages, it skips the run.

    Args:
        topic: topic to consume.
        group: consumer group. Use the DAG's id, so that it is easy to find in Kafka's tools.
        dlq_topic, result_topic: topics of the group's output. If the group has output but no committed offsets, the
            task fails, because it would process every message twice.
        source_topic: topic from which `topic` is made; only used to check that all topics differ.
        waits_for_messages: wait up to POLL_WAIT_S for a first message. Otherwise wait for open transactions: their
            commit triggers the run, and readers see it a moment later.
        engine: what processes the messages; empty: the setting COMPUTE_ENGINE. For `python` they are staged. `spark`
            reads them itself, so they are only claimed.
    """

    template_fields: Sequence[str] = ("topic", "dlq_topic", "result_topic", "source_topic", "engine")
    optional_fields: Sequence[str] = ("result_topic", "source_topic", "engine")

    def __init__(
        self,
        *,
        topic: str,
        group: str,
        dlq_topic: str,
        result_topic: str | None = None,
        source_topic: str | None = None,
        waits_for_messages: bool = False,
        engine: str = "python",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topic = topic
        self.group = group
        self.dlq_topic = dlq_topic
        self.result_topic = result_topic
        self.source_topic = source_topic
        self.waits_for_messages = waits_for_messages
        self.engine = engine

    def work(self, context: Context, settings: Any) -> str:
        engine = self.engine or settings.compute_engine
        if engine not in get_args(Engine):
            raise ConfigurationError(
                f"{self.task_id}: the engine {engine!r} is not one of {', '.join(get_args(Engine))}. Set the "
                "Variable COMPUTE_ENGINE. Nothing was done."
            )
        check_distinct(*filter(None, (self.source_topic, self.topic, self.result_topic, self.dlq_topic)))
        # Only one run is active, so the folders of earlier runs are not needed: this run claims their messages again.
        self.locate_dag_folder(context, settings).delete_all_but(self.locate_run_folder(context, settings))
        with open_group_reader(self.kafka, self.topic, self.group) as reader:
            claimed = self.make_claim(reader, settings)
            Stats.gauge("datastream.lag", claimed.lag, tags={"topic": self.topic})
            if claimed.is_empty:
                raise AirflowSkipException(f"Nothing new on {self.topic}.")
            self.log.info(describe_claims(self.topic, claimed.claims))
            folder = self.locate_folder(context, settings)
            if engine == "spark":
                self.log.info("Left the messages for Spark; the group was %d offsets behind", claimed.lag)
                return write_claim(claimed, folder)[0]
            url, manifest = stage(self.kafka, reader, claimed, folder)
        self.log.info(
            "Staged %d messages of %s in %d chunks; the group was %d offsets behind",
            manifest.records,
            self.topic,
            len(manifest.chunks),
            claimed.lag,
        )
        return url

    def make_claim(self, reader: GroupReader, settings: Any) -> Claimed:
        """Claim the messages after the group's committed offsets."""
        return claim(
            self.kafka,
            reader,
            Limits.from_settings(settings),
            topic_ids=self.make_topic_ids(settings),
            wait_s=settings.poll_wait_s if self.waits_for_messages else 0,
            settle_s=0 if self.waits_for_messages else SETTLE_S,
            has_output=self._has_output,
        )

    def _has_output(self, client: Consumer) -> bool:
        is_result = self.result_topic is not None and holds_results(self.kafka, client, self.result_topic)
        return is_result or holds_dead_letters(self.kafka, client, self.dlq_topic, self.topic, self.dag_id)
