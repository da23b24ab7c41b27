"""The settings that the whole stack shares, from the environment, `.env` at the root, or the defaults, in this order.

A vertical adds its settings in a subclass (jobs/<vertical>/vertical.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"

Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(min_length=1)]
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

    model_config = SettingsConfigDict(env_file=ROOT / ".env", env_ignore_empty=True, extra="ignore", frozen=True)

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

    # Addresses of the services, if they are not on the ports above.
    kafka_bootstrap_servers: str = ""
    elasticsearch_url: str = ""
    kibana_url: str = ""
    # auto: Google Cloud Storage if GCS_BUCKET and GOOGLE_APPLICATION_CREDENTIALS are set, else the emulator.
    cloud_storage: Literal["auto", "emulator", "google"] = "auto"
    gcs_emulator_url: str = ""
    google_application_credentials: str = ""

    es_version: Name = "9.5.3"
    gcs_bucket: str = ""

    poll_wait_s: Annotated[float, Field(ge=0, le=600)] = 30
    max_records_per_run: Annotated[int, Field(ge=1)] = 1_000_000
    # The producer's queue is twice as long, and its limit is 2**31 - 1.
    chunk_records: Annotated[int, Field(ge=1, le=1_000_000_000)] = 50_000
    chunk_bytes: Annotated[int, Field(ge=1)] = 32 * 2**20
    staging_url: str = ""

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
        return path if path.is_absolute() else ROOT / path

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
        return ROOT / "infra" / path if path else None

    @property
    def staging(self) -> str:
        """URL of the folder for staged files, without a trailing slash."""
        return (self.staging_url or (self.datastream_state / "staging").as_uri()).rstrip("/")


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
            f"{'.'.join(map(str, fault['loc'])).upper()}={fault['input']!r}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigurationError(f"{faults}. Set it in the environment or in .env (see .env.example).") from error
