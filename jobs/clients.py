"""Clients of the stack's services for the command line, by the settings. (The DAGs get theirs from Airflow's hooks.)"""

from __future__ import annotations

from elasticsearch import Elasticsearch
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from jobs.kafka.client import Config
from jobs.settings import Settings


def kafka_config(settings: Settings) -> Config:
    """What confluent-kafka needs to reach the broker."""
    return {"bootstrap.servers": settings.bootstrap_servers}


def elasticsearch_client(settings: Settings) -> Elasticsearch:
    """A client of Elasticsearch."""
    return Elasticsearch(settings.es_url, request_timeout=30)


def storage_client(settings: Settings) -> storage.Client:
    """A client of the emulator, or of Google's own Cloud Storage with the default credentials."""
    if settings.gcs_endpoint is None:
        return storage.Client()
    return storage.Client(
        project="datastream", credentials=AnonymousCredentials(), client_options={"api_endpoint": settings.gcs_endpoint}
    )
