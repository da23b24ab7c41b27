"""Loads the clean flights and weather into the shop's warehouse, where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats

from jobs.errors import ServiceUnavailableError
from operators.base import DatastreamOperator


class LoadWarehouseOperator(DatastreamOperator):
    """Copies new Parquet objects into raw.flights and raw.weather; an object's rows and its name are one transaction.

    A warehouse that does not answer skips the task. The next run loads what is missing.
    """

    template_fields: Sequence[str] = ("bucket", "prefix")

    def __init__(self, *, bucket: str, prefix: str, gcp_conn_id: str = "gcp_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bucket = bucket
        self.prefix = prefix
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: Any) -> None:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.flights.warehouse import load_objects
        from jobs.shop.database import LOADER, connect

        try:
            connection = connect(settings, LOADER)
        except ServiceUnavailableError as error:
            raise AirflowSkipException(str(error)) from error
        with connection:
            loaded = load_objects(connection, CloudStorageHook(self.gcp_conn_id).get_conn(), self.bucket, self.prefix)
        for table, rows in loaded.items():
            self.log.info("Loaded %d rows into raw.%s", rows, table)
            Stats.incr("datastream.flights.loaded", rows, tags={"table": table})
