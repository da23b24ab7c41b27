"""Cleans a topic of the flights and exports it as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats

from jobs.flights.vertical import FlightsSettings
from operators.base import DatastreamOperator


class CleanOperator(DatastreamOperator):
    """Writes clean rows to gs://<bucket>/<prefix>/<table>/YYYY/MM/DD/HH/, rejects to the dead letters; exactly once.

    Args:
        topic: topic to clean.
        group: consumer group.
        table: `flights` or `weather`.
    """

    template_fields: Sequence[str] = ("topic", "dlq_topic", "bucket", "prefix")

    def __init__(
        self,
        *,
        topic: str,
        group: str,
        table: str,
        dlq_topic: str,
        bucket: str,
        prefix: str,
        gcp_conn_id: str = "gcp_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topic = topic
        self.group = group
        self.table = table
        self.dlq_topic = dlq_topic
        self.bucket = bucket
        self.prefix = prefix
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: FlightsSettings) -> None:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.flights.clean import TABLES, Target, clean_topic

        cleaned = clean_topic(
            self.kafka,
            CloudStorageHook(self.gcp_conn_id).get_conn(),
            Target(self.topic, self.group, self.task_id, self.dlq_topic, self.bucket, self.prefix, TABLES[self.table]),
            settings,
            folder=self.locate_folder(context, settings),
            topic_ids=self.make_topic_ids(settings),
        )
        if cleaned is None:
            raise AirflowSkipException(f"Nothing new on {self.topic}.")
        self.log.info(
            "Wrote %d rows as %d objects to gs://%s, rejected %d messages",
            cleaned.rows,
            cleaned.objects,
            self.bucket,
            cleaned.rejects.total(),
        )
        Stats.incr("datastream.flights.cleaned", cleaned.rows, tags={"table": self.table})
        for reason, count in cleaned.rejects.items():
            Stats.incr("datastream.flights.refused", count, tags={"table": self.table, "reason": reason})
