"""What a vertical declares: the one value from which commands, roles, Variables and tests learn what there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from jobs.settings import Settings


class Trigger(msgspec.Struct, frozen=True):
    """A DAG run to start, with its parameters."""

    dag_id: str
    conf: Mapping[str, Any]


class Group(msgspec.Struct, frozen=True):
    """A DAG's consumer group; `topic` is the setting that names the topic it reads.

    `done` says in one word what has happened to a message that the group has passed. `flush` triggers a group that
    waits for a full batch.
    """

    id: str
    topic: str
    done: str
    flush: Trigger | None = None


class DeadLetters(msgspec.Struct, frozen=True):
    """Where messages go that could not be processed.

    `topic` is the setting that names the topic, `replay_group` the consumer group that sends them back. `sources` has,
    by the setting that names a topic, the DAG that writes the dead letters of its messages.
    """

    topic: str
    replay_group: str
    sources: Mapping[str, str]

    def sources_by_topic(self, settings: Settings) -> dict[str, str]:
        """The topics whose messages become dead letters, each with the DAG that writes them."""
        return {getattr(settings, setting): dag for setting, dag in self.sources.items()}


class Vertical(msgspec.Struct, frozen=True):
    """A stream with all that belongs to it; what it lacks stays empty.

    Attributes:
        name: the same in every part of the repository.
        settings: its settings, those of the whole stack included.
        topics: file that declares its topics (`jobs.kafka.topics`).
        groups: the consumer groups of its DAGs, in the order of a message's way.
        command_groups: by consumer group of a command, the setting that names the topic it reads. The offsets hold
            unfinished work; `make offsets` accepts only TO=kept.
        dags: what `unpause` toggles on.
        variables: settings that are Airflow Variables too, by the same name in upper case.
        templates: by the setting that names an Elasticsearch index, the file of its index template.
        dashboard: id of its Kibana dashboard and data view; the objects are in infra/kibana/objects/<name>.
        dead_letters: its dead-letter topic.
        ledger: what counts its messages at every system, as `module:function` (see `jobs.ledger`).
        requirement_set: the packages that its tasks run with in subprocesses (see `jobs.environments`).
        services: the services that it needs, by their names in infra/local/services.
    """

    name: str
    settings: type[Settings]
    topics: Path | None = None
    groups: tuple[Group, ...] = ()
    command_groups: Mapping[str, str] = msgspec.field(default_factory=dict)
    dags: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    templates: Mapping[str, Path] = msgspec.field(default_factory=dict)
    dashboard: str = ""
    dead_letters: DeadLetters | None = None
    ledger: str = ""
    requirement_set: str = ""
    services: tuple[str, ...] = ()
