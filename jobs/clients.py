"""Clients of the stack's services by the settings, for the command line and for setting services up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import requests

from jobs.errors import ConfigurationError
from jobs.settings import Settings

# Each function imports its own library: they are slow and large, and most commands need one of them.
if TYPE_CHECKING:
    from elasticsearch import Elasticsearch
    from google.auth.credentials import Credentials
    from google.cloud import storage

ADMIN = "elastic"
WRITER = "datastream_writer"
READER = "datastream_reader"

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Systems(Generic[S]):
    """What work on the whole of a stream needs: its settings, and a client for each system, made when it is used.

    Attributes:
        settings: the vertical's.
        progress: called with the name of what is being done, how much of it is done and how much there is.
        may_write: whether the client of Elasticsearch may do more than read.
    """

    settings: S
    progress: Callable[[str, int, int], object] = lambda *_: None
    may_write: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """What confluent-kafka needs."""
        return kafka_config(self.settings)

    @cached_property
    def elasticsearch(self) -> Elasticsearch:
        return elasticsearch_admin(self.settings) if self.may_write else elasticsearch_client(self.settings)

    @cached_property
    def gcs(self) -> storage.Client:
        """Raises ConfigurationError as `storage_client`."""
        return storage_client(self.settings)


def kafka_config(settings: Settings) -> dict[str, Any]:
    """What confluent-kafka needs to reach the broker."""
    return {"bootstrap.servers": settings.bootstrap_servers}


def elasticsearch_client(settings: Settings) -> Elasticsearch:
    """A client that may only read. (Where Elasticsearch has no security, it takes anybody.)"""
    return _elasticsearch(settings, READER, settings.elasticsearch_reader_password)


def elasticsearch_admin(settings: Settings) -> Elasticsearch:
    """A client that may do anything."""
    return _elasticsearch(settings, ADMIN, settings.elastic_password)


def _elasticsearch(settings: Settings, user: str, password: str) -> Elasticsearch:
    from elasticsearch import Elasticsearch

    return Elasticsearch(settings.es_url, basic_auth=(user, password), request_timeout=30)


def storage_client(settings: Settings) -> storage.Client:
    """A client of the emulator, or of Google's own Cloud Storage.

    Raises:
        ConfigurationError: GOOGLE_APPLICATION_CREDENTIALS names no usable file, or nothing offers credentials.
    """
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    if settings.gcs_endpoint is not None:
        options = {"api_endpoint": settings.gcs_endpoint}
        return storage.Client(project="datastream", credentials=AnonymousCredentials(), client_options=options)
    credentials, project = google_credentials(settings, "Google Cloud Storage")
    return storage.Client(project=project or "datastream", credentials=credentials)


def google_credentials(settings: Settings, service: str) -> tuple[Credentials, str | None]:
    """Credentials of GOOGLE_APPLICATION_CREDENTIALS, or what the machine offers; with their project, if they know it.

    Raises:
        ConfigurationError: they name no usable file, or nothing offers any; the text begins with the service.
    """
    import google.auth
    import google.auth.exceptions

    file = settings.gcs_credentials_file
    try:
        found: tuple[Credentials, str | None] = (
            google.auth.load_credentials_from_file(str(file)) if file else google.auth.default()
        )
    except (google.auth.exceptions.DefaultCredentialsError, OSError) as error:
        raise ConfigurationError(
            f"{service}: {error}. Set GOOGLE_APPLICATION_CREDENTIALS to the key of a service account, as an absolute "
            "path or one from infra/. In Docker, the user AIRFLOW_UID or its group 0 must be able to read it."
        ) from error
    return found


def local_session() -> requests.Session:
    """HTTP to services on this machine: neither a proxy nor the credentials of ~/.netrc are meant for them."""
    session = requests.Session()
    session.trust_env = False
    return session
