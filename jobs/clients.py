"""Clients of the stack's services, made from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import requests

from jobs.errors import ConfigurationError
from jobs.progress import Progress
from jobs.settings import Settings

# Each function imports its own library: most commands need only one, and each is slow to import.
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
    """The settings of a vertical, with a client for each system that is made on first use.

    Attributes:
        settings: the settings of the vertical.
        progress: shows the progress of the work.
        may_write: whether the Elasticsearch client may do more than read.
    """

    settings: S
    progress: Progress = lambda *_: None
    may_write: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of confluent-kafka."""
        return make_kafka_config(self.settings)

    @cached_property
    def elasticsearch(self) -> Elasticsearch:
        return make_elasticsearch_admin(self.settings) if self.may_write else make_elasticsearch_client(self.settings)

    @cached_property
    def gcs(self) -> storage.Client:
        """The Cloud Storage client; raises ConfigurationError as for `make_storage_client`."""
        return make_storage_client(self.settings)


def make_kafka_config(settings: Settings) -> dict[str, Any]:
    """The configuration with which confluent-kafka reaches the broker."""
    return {"bootstrap.servers": settings.bootstrap_servers}


def make_elasticsearch_client(settings: Settings) -> Elasticsearch:
    """A client that may only read. (Without security, Elasticsearch accepts any user.)"""
    return _connect_elasticsearch(settings, READER, settings.elasticsearch_reader_password)


def make_elasticsearch_admin(settings: Settings) -> Elasticsearch:
    """A client that may do anything."""
    return _connect_elasticsearch(settings, ADMIN, settings.elastic_password)


def _connect_elasticsearch(settings: Settings, user: str, password: str) -> Elasticsearch:
    from elasticsearch import Elasticsearch

    return Elasticsearch(settings.es_url, basic_auth=(user, password), request_timeout=30)


def make_storage_client(settings: Settings) -> storage.Client:
    """A client of the emulator or of Google Cloud Storage.

    Raises:
        ConfigurationError: there are no usable credentials.
    """
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    if settings.gcs_endpoint is not None:
        return storage.Client(
            project="datastream",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": settings.gcs_endpoint},
            _http=make_local_session(),
        )
    credentials, project = load_google_credentials(settings, "Google Cloud Storage")
    return storage.Client(project=project or "datastream", credentials=credentials)


def load_google_credentials(settings: Settings, service: str) -> tuple[Credentials, str | None]:
    """The credentials in GOOGLE_APPLICATION_CREDENTIALS, or the machine's default ones, and their project if known.

    Args:
        service: name of the service that needs them, for the error text.

    Raises:
        ConfigurationError: the file is missing or invalid, or the machine has no default credentials.
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


def make_local_session() -> requests.Session:
    """A session for services on this machine. It ignores proxies and ~/.netrc."""
    session = requests.Session()
    session.trust_env = False
    return session
