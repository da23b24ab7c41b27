"""The declaration of the tickets vertical."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from jobs.settings import ROOT, Name, Settings
from jobs.vertical import Group, Vertical

GROUP = "ticket_processor"

# Settings that also have the names of the exercise that this vertical follows.
_SHORT = (
    "topic_name",
    "topic_partitions",
    "topic_replication",
    "producer_rate",
    "producer_timeout",
    "spark_memory",
    "spark_executor_cores",
    "output_format",
    "output_path",
    "log_level",
    "environment",
    "redpanda_broker_local",
)


class TicketsSettings(Settings):
    """The settings of tickets.

    Most also have a name without `tickets_`. Other programs may use such a name too, and all verticals read their
    settings together. So the processor checks the texts, and those of other programs do no harm.
    """

    topic_settings: ClassVar[tuple[str, ...]] = ("tickets_topic_name",)
    second_names: ClassVar[Mapping[str, str]] = {f"tickets_{name}": name for name in _SHORT}

    tickets_topic_name: Name = "client_tickets"
    tickets_topic_partitions: Annotated[int, Field(ge=1)] = 3
    tickets_topic_replication: Annotated[int, Field(ge=1)] = 1
    # Tickets per second.
    tickets_producer_rate: Annotated[float, Field(ge=0)] = 10
    # Seconds to keep trying while no broker answers.
    tickets_producer_timeout: Annotated[float, Field(ge=1)] = 30
    tickets_spark_memory: str = "1g"
    tickets_spark_executor_cores: Annotated[int, Field(ge=1)] = 2
    tickets_output_format: str = "parquet"
    tickets_output_path: Path = ROOT / "data" / "output"
    tickets_log_level: str = "INFO"
    # docker: the processor gives its files to the owner of the output folder.
    tickets_environment: str = "local"
    # host:port of the tickets' broker. Default: the stack's Kafka.
    tickets_redpanda_broker_local: str = ""

    # host:port of a StatsD server for the stream's metrics; empty: none.
    tickets_statsd: str = ""

    @field_validator("tickets_output_path")
    @classmethod
    def _make_output_absolute(cls, path: Path) -> Path:
        return path if path.is_absolute() else ROOT / path

    @property
    def tickets_broker(self) -> str:
        return self.tickets_redpanda_broker_local or self.bootstrap_servers

    @property
    def tickets_state(self) -> Path:
        """The folder where the stream keeps its position and all tickets so far."""
        return self.datastream_state / "tickets"

    @property
    def tickets_page(self) -> Path:
        """The HTML page that view_results.py writes."""
        return self.tickets_output_path / "tickets.html"


VERTICAL = Vertical(
    name="tickets",
    settings=TicketsSettings,
    topics=ROOT / "infra" / "kafka" / "topics" / "tickets.yml",
    broker="tickets_broker",
    streams=(Group(GROUP, topic="tickets_topic_name", done="processed"),),
    page="tickets_page",
    ledger="jobs.tickets.ledger:take_ledger",
    services=("kafka",),
)
