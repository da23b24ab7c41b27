"""PutGCP: exports a topic to Cloud Storage as Parquet when enough rides wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats

from jobs.rides.vertical import RidesSettings
from operators.base import DatastreamOperator


class PutGCPOperator(DatastreamOperator):
    """Writes results to gs://<bucket>/<prefix>/YYYY/MM/DD/HH/ by ride time, and commits the offsets of its own group.

    `jobs.rides.export.export_if_due` decides when; the parameter export_now exports at once.

    Args:
        topic: topic to export.
        group: consumer group of the export.
        staged: URL of ConsumeKafka's manifest; None if it was skipped.
    """

    template_fields: Sequence[str] = ("topic", "staged", "bucket", "prefix")
    optional_fields: Sequence[str] = ("staged",)

    def __init__(
        self,
        *,
        topic: str,
        group: str,
        staged: Any,
        bucket: str,
        prefix: str,
        gcp_conn_id: str = "gcp_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topic = topic
        self.group = group
        self.staged = staged
        self.bucket = bucket
        self.prefix = prefix
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: RidesSettings) -> None:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.rides.export import Target, export_if_due

        exported = export_if_due(
            self.kafka,
            CloudStorageHook(self.gcp_conn_id).get_conn,
            Target(self.topic, self.group, self.bucket, self.prefix),
            settings,
            self.locate_folder(context, settings),
            topic_ids=self.make_topic_ids(settings),
            is_asked_for=context["params"]["export_now"],
        )
        if exported.waits and self.staged is None:
            raise AirflowSkipException(exported.waits)
        if exported.waits:
            self.log.info(exported.waits)
        elif exported.rows:
            self.log.info("Wrote %d rides as %d objects to gs://%s", exported.rows, exported.objects, self.bucket)
            Stats.incr("datastream.rides.exported", exported.rows)
