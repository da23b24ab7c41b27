"""PutGCP: writes what waits on a topic as Parquet to Cloud Storage, when it is worth an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats

from jobs.kafka.offsets import SETTLE_S
from jobs.kafka.stage import Limits, stage
from jobs.settings import Settings
from operators.base import DatastreamOperator


class PutGCPOperator(DatastreamOperator):
    """Writes results under gs://<bucket>/<prefix>/YYYY/MM/DD/HH/ by ride time, and commits its own group's offsets.

    It waits until EXPORT_TARGET_RECORDS are there, until the first has waited EXPORT_MAX_AGE_S, or until a run has the
    parameter export_now. If the group has no committed offsets although there are objects, the task fails instead of
    writing everything a second time.

    Args:
        topic: what to export.
        group: consumer group of the export.
        staged: ConsumeKafka's manifest; None where it had nothing new.
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

    def work(self, context: Context, settings: Settings) -> None:
        from jobs.rides.export import backlog

        is_asked_for = context["params"]["export_now"]
        # Who asks for it has seen results, maybe before readers do.
        settle_s = SETTLE_S if is_asked_for else 0
        found = backlog(self.kafka, self.topic, self.group, settings.export_max_age_s, settle_s=settle_s)
        target = 1 if is_asked_for else settings.export_target_records
        if not found.is_due(target):
            held = f", {found.held} of them behind an open transaction" if found.held else ""
            waits = (
                f"{found.offsets} offsets of {self.topic} wait for EXPORT_TARGET_RECORDS={target} or "
                f"EXPORT_MAX_AGE_S={settings.export_max_age_s:g}{held}"
            )
            if self.staged is None:
                raise AirflowSkipException(waits)
            self.log.info(waits)
            return
        self._export(context, settings)

    def _export(self, context: Context, settings: Settings) -> None:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.kafka.commit import commit_offsets
        from jobs.rides.export import put_gcs
        from jobs.sinks.parquet import holds_objects

        client = CloudStorageHook(self.gcp_conn_id).get_conn()
        folder = self.folder(context, settings)
        manifest = stage(
            self.kafka,
            self.topic,
            self.group,
            folder,
            Limits(settings.max_records_per_run, settings.chunk_records, settings.chunk_bytes),
            topic_ids=self.topic_ids(settings),
            is_planned=True,
            has_output=lambda _: holds_objects(client, self.bucket, self.prefix),
        ).manifest
        if manifest is None:
            return
        names = put_gcs(client, self.bucket, self.prefix, manifest)
        commit_offsets(self.kafka, manifest)
        folder.delete()
        self.log.info("Wrote %d rides as %d objects to gs://%s", manifest.records, len(names), self.bucket)
        Stats.incr("datastream.rides.exported", manifest.records)
