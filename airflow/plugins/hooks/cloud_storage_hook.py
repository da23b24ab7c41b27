"""The hook for Cloud Storage, or for the emulator if the settings select it."""

from __future__ import annotations

from airflow.providers.google.cloud.hooks.gcs import GCSHook
from google.cloud import storage

from jobs.clients import make_storage_client
from jobs.settings import Settings, load


class CloudStorageHook(GCSHook):
    """A GCSHook that needs no connection for the emulator."""

    def get_conn(self) -> storage.Client:
        settings = load(Settings)
        return super().get_conn() if settings.gcs_endpoint is None else make_storage_client(settings)
