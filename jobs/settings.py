"""The settings that the whole stack shares, from the environment, `.env` at the root, or the defaults, in this order.

Of an environment (`make up ENV=staging`), the files in env/ replace `.env`.

A vertical adds its settings in a subclass (jobs/<vertical>/vertical.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"


def list_env_files() -> tuple[Path, ...]:
    """The files with settings, the strongest last: those that Compose reads too, or else `.env`.

    https://docs.docker.com/compose/how-tos/environment-variables/envvars/#compose_env_files
    """
    names = os.environ.get("COMPOSE_ENV_FILES") or ".env"
    return tuple(ROOT / name for name in names.split(","))


def _check_url(text: str) -> str:
    """Check that a URL has scheme, host and port, and nothing else; returns it without a trailing slash.

    Raises:
        ValueError: says what is wrong without repeating a password.
    """
    if not text:
        return text
    try:
        url = urlsplit(text)
        is_address = url.scheme in ("http", "https") and bool(url.hostname) and url.port is not None
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError("a URL with scheme, host and port is needed, for example http://127.0.0.1:9200")
    if "@" in url.netloc:
        raise ValueError("a URL cannot have a login: users and passwords have settings of their own")
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError("the URL must end after the port")
    return f"{url.scheme}://{url.netloc}"


_BROKER = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})", re.ASCII)


def _check_brokers(text: str) -> str:
    """Check a list of host:port; returns it without spaces."""
    brokers = [broker.strip() for broker in text.split(",") if broker.strip()]
    for broker in brokers:
        match = _BROKER.fullmatch(broker)
        if not match or not 1 <= int(match[2]) <= 65535:
            raise ValueError(f"{broker!r} is not host:port, for example 127.0.0.1:29092")
    return ",".join(brokers)


def _check_folder_url(text: str) -> str:
    """Check file:///path or gs://bucket/path; returns it without a trailing slash."""
    if not text:
        return text
    url = urlsplit(text)
    is_local = url.scheme == "file" and not url.netloc and url.path.startswith("/")
    if not is_local and not (url.scheme == "gs" and url.netloc):
        raise ValueError("file:///path or gs://bucket/path is needed")
    return text.rstrip("/")


Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(min_length=1)]
Url = Annotated[str, AfterValidator(_check_url)]
# https://kafka.apache.org/41/javadoc/org/apache/kafka/common/internals/Topic.html
Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
# https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create
Index = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,254}$")]
# https://cloud.google.com/storage/docs/buckets#naming
Bucket = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])?$")]
S = TypeVar("S", bound="Settings")


def check_distinct(*topics: str, given: str = "") -> None:
    """Raise ConfigurationError if two topics have the same name: a step would read its own output in a loop.

    Args:
        given: shown in the error instead of the topics.
    """
    if len(set(topics)) != len(topics):
        raise ConfigurationError(
            f"{given or ', '.join(topics)}: topics must have different names. Set them in .env, or as Airflow's "
            "Variables. Nothing was done."
        )


class _SecondNames(PydanticBaseSettingsSource):
    """Settings by their second names, from the environment or else from .env."""

    def __init__(self, kind: type[BaseSettings], *sources: PydanticBaseSettingsSource) -> None:
        super().__init__(kind)
        self._sources = [source.env_vars for source in sources if isinstance(source, EnvSettingsSource)]

    def __call__(self) -> dict[str, Any]:
        names = {name: list_variables(self.settings_cls, name)[1:] for name in self.settings_cls.model_fields}
        return {
            name: values[second.lower()]
            for name, others in names.items()
            for second in others
            for values in reversed(self._sources)
            if second.lower() in values
        }

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # only the base class calls it


class Settings(BaseSettings):
    """The settings that `.env.example` explains, with names in lower case. Immutable."""

    # utf-8-sig: editors on Windows write a byte-order mark.
    model_config = SettingsConfigDict(
        env_file=list_env_files(), env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # The names of the settings that hold topic names, without those of the base classes.
    topic_settings: ClassVar[tuple[str, ...]] = ()

    # Second names of settings, which count where the first is set nowhere; without those of the base classes.
    second_names: ClassVar[Mapping[str, str]] = {}

    # Where the services without Docker keep data, logs and generated secrets.
    datastream_state: Path = ROOT / ".local"

    kafka_port: Port = 29092
    elasticsearch_port: Port = 9200
    gcs_port: Port = 4443
    kibana_port: Port = 5601
    kafka_ui_port: Port = 8080
    airflow_port: Port = 8081

    # Development defaults, for services on the loopback interface only. `make up` generates passwords.
    airflow_user: Name = "admin"
    airflow_password: Name = "admin"  # noqa: S105
    elastic_password: Name = "changeme"  # noqa: S105
    kibana_system_password: Name = "changeme"  # noqa: S105
    elasticsearch_writer_password: Name = "changeme"  # noqa: S105
    elasticsearch_reader_password: Name = "changeme"  # noqa: S105
    elasticsearch_monitor_password: Name = "changeme"  # noqa: S105
    elasticsearch_logstash_password: Name = "changeme"  # noqa: S105
    postgres_monitor_password: Name = "changeme"  # noqa: S105

    # Addresses of the services, if they are not on the ports above.
    kafka_bootstrap_servers: Annotated[str, AfterValidator(_check_brokers)] = ""
    elasticsearch_url: Url = ""
    kibana_url: Url = ""
    # auto: Google Cloud Storage if GCS_BUCKET and GOOGLE_APPLICATION_CREDENTIALS are set, else the emulator.
    cloud_storage: Literal["auto", "emulator", "google"] = "auto"
    gcs_emulator_url: Url = ""
    google_application_credentials: str = ""

    es_version: Name = "9.5.3"
    gcs_bucket: Bucket = ""

    poll_wait_s: Annotated[float, Field(ge=0, le=600)] = 30
    max_records_per_run: Annotated[int, Field(ge=1)] = 1_000_000
    # The producer's queue is twice as long, and its limit is 2**31 - 1.
    chunk_records: Annotated[int, Field(ge=1, le=1_000_000_000)] = 50_000
    chunk_bytes: Annotated[int, Field(ge=1)] = 32 * 2**20
    staging_url: Annotated[str, AfterValidator(_check_folder_url)] = ""

    # Days; 0 keeps everything.
    airflow_retention_days: Annotated[int, Field(ge=0)] = 7

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        second_names = _SecondNames(settings_cls, env_settings, dotenv_settings)
        return init_settings, env_settings, dotenv_settings, second_names

    @field_validator("datastream_state")
    @classmethod
    def _make_absolute(cls, path: Path) -> Path:
        return ROOT / _expand_home(path)

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        if self.cloud_storage == "google" and not self.gcs_bucket:
            raise ConfigurationError("CLOUD_STORAGE=google needs a bucket: set GCS_BUCKET in .env.")
        if self.staging_url.startswith("gs:") and self.gcs_endpoint is not None:
            raise ConfigurationError(
                f"STAGING_URL={self.staging_url} is at Google, but CLOUD_STORAGE={self.cloud_storage} selects the "
                "emulator. Set CLOUD_STORAGE=google, or stage files under file:///path."
            )
        return self

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        names = [name for kind in type(self).__mro__ for name in vars(kind).get("topic_settings", ())]
        topics = [getattr(self, name) for name in names]
        pairs = zip(names, topics, strict=True)
        check_distinct(*topics, given=", ".join(f"{name.upper()}={topic}" for name, topic in pairs))
        return self

    @property
    def bootstrap_servers(self) -> str:
        return self.kafka_bootstrap_servers or f"{LOOPBACK}:{self.kafka_port}"

    @property
    def es_url(self) -> str:
        return self.elasticsearch_url or f"http://{LOOPBACK}:{self.elasticsearch_port}"

    @property
    def kibana_address(self) -> str:
        return self.kibana_url or f"http://{LOOPBACK}:{self.kibana_port}"

    @property
    def bucket(self) -> str:
        return self.gcs_bucket or "datastream"

    @property
    def gcs_endpoint(self) -> str | None:
        """The emulator's URL; None for Google Cloud Storage."""
        is_given = bool(self.gcs_bucket and self.google_application_credentials)
        if self.cloud_storage == "google" or (self.cloud_storage == "auto" and is_given):
            return None
        return self.gcs_emulator_url or f"http://{LOOPBACK}:{self.gcs_port}"

    @property
    def gcs_credentials_file(self) -> Path | None:
        """The key file; None for the default credentials (gcloud's login, a workload identity)."""
        # Docker Compose resolves relative paths from infra/.
        path = self.google_application_credentials
        return ROOT / "infra" / _expand_home(Path(path)) if path else None

    @property
    def staging(self) -> str:
        """URL of the folder for staged files, without a trailing slash."""
        return self.staging_url or (self.datastream_state / "staging").as_uri()


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: the home folder is unknown. Write the whole path.") from error


def is_secret(name: str) -> bool:
    """Whether a setting's value may be shown nowhere: a password, or the key of an API."""
    return name.lower().endswith(("_password", "_key"))


def list_variables(kind: type[BaseSettings], field: str) -> list[str]:
    """The names of the environment variables that set a field, the strongest first."""
    seconds = [names[field] for base in kind.__mro__ if field in (names := vars(base).get("second_names", {}))]
    return [name.upper() for name in (field, *seconds)]


def load(kind: type[S]) -> S:
    """Read the settings of a class.

    Raises:
        ConfigurationError: a setting is invalid, or two topics have the same name.
    """
    try:
        return kind()
    except ValidationError as error:
        faults = "; ".join(
            _describe_fault(str(fault["loc"][0]), fault["input"], fault["msg"]) for fault in error.errors()
        )
        raise ConfigurationError(f"{faults}. Set it in the environment or in .env (see .env.example).") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{_name_env_files(kind)} is not UTF-8. Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigurationError(f"The settings file cannot be read: {error}") from error


def _name_env_files(kind: type[Settings]) -> str:
    files = kind.model_config["env_file"]
    return " or ".join(map(str, files)) if isinstance(files, tuple) else str(files)


def _describe_fault(name: str, value: object, reason: str) -> str:
    """Name a setting, its value without secrets, and what is wrong with it."""
    shown = "…" if is_secret(name) else re.sub(r"//[^/@]*@", "//…@", str(value))
    return f"{name.upper()}={shown!r}: {reason.removeprefix('Value error, ')}"
