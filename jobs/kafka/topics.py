"""Create and alter topics as the files in infra/kafka/topics declare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from jobs.errors import ConfigurationError
from jobs.kafka.client import QUIET, REQUEST_TIMEOUT_S, Config, translate_broker_errors
from jobs.settings import Settings

# `Difference.what` for the number of partitions; otherwise it is the name of a topic setting.
PARTITIONS = "partitions"


class Topic(msgspec.Struct, frozen=True):
    """A declared topic. `setting` is the setting in .env that can change its name."""

    setting: str
    name: str
    partitions: int
    config: dict[str, int | str]
    replicas: int = 1


class Difference(msgspec.Struct, frozen=True):
    """A setting whose value on the broker differs from the declared one."""

    topic: str
    what: str
    has: str
    declared: str


class _Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topic in a file. Numbers may be the names of settings."""

    setting: str
    name: str
    partitions: int | str
    config: dict[str, int | str]
    replicas: int | str = 1

    @property
    def settings(self) -> list[str]:
        return [name for name in (self.setting, self.partitions, self.replicas) if isinstance(name, str)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topics: list[_Declaration]


def load_topics(path: Path, settings: Settings) -> list[Topic]:
    """The topics that a file declares, with the names and numbers in the settings.

    Raises:
        ConfigurationError: the file is invalid.
    """
    try:
        file = msgspec.convert(yaml.safe_load(path.read_text()), _File)
    except (msgspec.ValidationError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if unknown := [name for topic in file.topics for name in topic.settings if not hasattr(settings, name.lower())]:
        raise ConfigurationError(f"{path}: there is no setting {', '.join(unknown)}")

    def resolve(value: int | str) -> Any:
        return getattr(settings, value.lower()) if isinstance(value, str) else value

    return [
        Topic(topic.setting, resolve(topic.setting), resolve(topic.partitions), topic.config, resolve(topic.replicas))
        for topic in file.topics
    ]


def apply(config: Config, topics: list[Topic]) -> tuple[list[str], list[Difference]]:
    """Create the topics that are missing.

    Returns:
        The names of the created topics, and how the existing ones differ from their declarations.
    """
    with translate_broker_errors(config, "applying topics"):
        admin = AdminClient({**QUIET, **config})
        created = []
        missing = [
            NewTopic(topic.name, topic.partitions, topic.replicas, config={k: str(v) for k, v in topic.config.items()})
            for topic in topics
        ]
        for name, future in admin.create_topics(missing, request_timeout=REQUEST_TIMEOUT_S).items():
            try:
                future.result()
                created.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        for name in created:
            _wait_until_known(admin, name)
        return created, [
            difference
            for topic in topics
            if topic.name not in created
            for difference in _find_differences(admin, topic)
        ]


def alter(config: Config, differences: list[Difference]) -> list[Difference]:
    """Give existing topics their declared settings.

    Returns:
        The differences that remain: numbers of partitions, because a change moves keys to other partitions.
    """
    settings = [difference for difference in differences if difference.what != PARTITIONS]
    resources: dict[str, ConfigResource] = {}
    for difference in settings:
        resource = resources.setdefault(difference.topic, ConfigResource(ResourceType.TOPIC, difference.topic))
        resource.add_incremental_config(
            ConfigEntry(difference.what, difference.declared, incremental_operation=AlterConfigOpType.SET)
        )
    if resources:
        with translate_broker_errors(config, "altering topics"):
            admin = AdminClient({**QUIET, **config})
            answers = admin.incremental_alter_configs(list(resources.values()), request_timeout=REQUEST_TIMEOUT_S)
            for answer in answers.values():
                answer.result()
    return [difference for difference in differences if difference.what == PARTITIONS]


def _wait_until_known(admin: AdminClient, name: str) -> None:
    """Wait until the metadata of the broker has the partitions of a new topic."""
    until_known = Retrying(
        retry=retry_if_result(lambda error: error is not None),
        stop=stop_after_delay(REQUEST_TIMEOUT_S),
        wait=wait_fixed(0.05),
    )
    until_known(lambda: admin.list_topics(name, timeout=REQUEST_TIMEOUT_S).topics[name].error)


def _find_differences(admin: AdminClient, topic: Topic) -> list[Difference]:
    count = len(admin.list_topics(topic.name, timeout=REQUEST_TIMEOUT_S).topics[topic.name].partitions)
    differences = []
    if count != topic.partitions:
        differences.append(Difference(topic.name, PARTITIONS, str(count), str(topic.partitions)))
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    held = admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource].result()
    for name, value in topic.config.items():
        if held[name].value != str(value):
            differences.append(Difference(topic.name, name, held[name].value, str(value)))
    return differences
