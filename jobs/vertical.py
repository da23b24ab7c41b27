"""What a vertical declares. Commands, roles, Variables and tests read this declaration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from jobs.settings import Settings

# What processes a group's messages: the DAG itself, or Spark.
Engine = Literal["python", "spark"]


class Trigger(msgspec.Struct, frozen=True):
    """A DAG run to start, with its parameters."""

    dag_id: str
    conf: Mapping[str, Any]


class Group(msgspec.Struct, frozen=True):
    """The consumer group of a DAG.

    Attributes:
        topic: the setting that names the topic it reads.
        done: one word for what the group does to a message ("priced").
        is_copy: its offsets are a copy of a position in another system, so `make offsets` does not set them.
        flush: triggers a group that waits for a full batch.
        engine: what owns it while it has no offsets (jobs/kafka/engine.py).
    """

    id: str
    topic: str
    done: str
    flush: Trigger | None = None
    is_copy: bool = False
    engine: Engine = "python"


class DeadLetters(msgspec.Struct, frozen=True):
    """The topic for messages that could not be processed.

    Attributes:
        topic: the setting that names the topic.
        replay_group: the consumer group that sends dead letters back.
        sources: source topics (the settings that name them), each with the DAG that writes its dead letters.
    """

    topic: str
    replay_group: str
    sources: Mapping[str, str]

    def resolve_sources(self, settings: Settings) -> dict[str, str]:
        """The names of the source topics, each with the DAG that writes its dead letters."""
        return {getattr(settings, setting): dag for setting, dag in self.sources.items()}


class Vertical(msgspec.Struct, frozen=True):
    """The declaration of a vertical. What it does not have stays empty.

    Attributes:
        name: its name in every part of the repository.
        settings: its settings, including those of the whole stack.
        topics: file that declares its topics (see `jobs.kafka.topics`).
        broker: the setting with the address of the Kafka broker that has its topics.
        groups: the consumer groups of its DAGs, in the order in which a message passes them.
        streams: the consumer groups of programs outside Airflow that commit their offsets only to show their position.
        command_groups: consumer groups of commands, each with the setting that names the topic it reads. Their offsets
            hold unfinished work, so `make offsets` accepts only TO=kept.
        dags: the DAGs that `unpause` unpauses.
        variables: settings that are also Airflow Variables, with the same name in upper case.
        templates: index templates: the setting that names the Elasticsearch index, and the file. A name with an
            asterisk stands for indices that are created by their first document.
        dashboard: id of its Kibana dashboard and data view; the objects are in infra/kibana/objects/<name>.
        dead_letters: its dead-letter topic.
        metrics: what its tasks report with Airflow's `Stats`, each with what it says. Prometheus knows `datastream.x`
            as `airflow_datastream_x`.
        ledger: the function that counts its messages in every system, as `module:function` (see `jobs.ledger`).
        series: the function that reads more of its series for Prometheus from its settings, as `module:function`.
        page: the setting with the path of its HTML page, if it writes one.
        requirement_set: the packages of its tasks that run as subprocesses (see `jobs.environments`).
        services: the services that it needs, by their names in infra/local/services.
    """

    name: str
    settings: type[Settings]
    topics: Path | None = None
    broker: str = "bootstrap_servers"
    groups: tuple[Group, ...] = ()
    streams: tuple[Group, ...] = ()
    command_groups: Mapping[str, str] = msgspec.field(default_factory=dict)
    dags: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    templates: Mapping[str, Path] = msgspec.field(default_factory=dict)
    dashboard: str = ""
    dead_letters: DeadLetters | None = None
    metrics: Mapping[str, str] = msgspec.field(default_factory=dict)
    ledger: str = ""
    series: str = ""
    page: str = ""
    requirement_set: str = ""
    services: tuple[str, ...] = ()
