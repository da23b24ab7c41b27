"""PutGCP: writes rows as Parquet to Cloud Storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.settings import Settings
from operators.base import DatastreamOperator


class PutGCPOperator(DatastreamOperator):
    """Writes transformed rows under gs://<bucket>/<prefix>/YYYY/MM/DD/HH/ by ride time.

    Args:
        transformed: URL of TransformJSON's manifest.
    """

    template_fields: Sequence[str] = ("transformed", "bucket", "prefix")

    def __init__(
        self, *, transformed: Any, bucket: str, prefix: str, gcp_conn_id: str = "gcp_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.transformed = transformed
        self.bucket = bucket
        self.prefix = prefix
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: Settings) -> None:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.rides.export import put_gcs

        manifest = self.unfinished(self.transformed)
        names = put_gcs(CloudStorageHook(self.gcp_conn_id).get_conn(), self.bucket, self.prefix, manifest)
        self.log.info("Wrote %d rides as %d objects to gs://%s", manifest.records, len(names), self.bucket)
        Stats.incr("datastream.rides.exported", manifest.records)
