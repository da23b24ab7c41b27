"""The declaration of the tickets vertical."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field, field_validator

from jobs.settings import ROOT, Name, Settings
from jobs.vertical import Vertical

# The consumer group that shows the position of the stream to other tools.
GROUP = "ticket_processor"


def _also(name: str) -> Any:
    """A second name of a setting, without the vertical's name: that of the exercise that the vertical follows."""
    return Field(validation_alias=AliasChoices(f"tickets_{name}", name))


class TicketsSettings(Settings):
    """The settings of tickets.

    Each also has a name without `tickets_`. Other programs may use such a name too, and all verticals read their
    settings together: so the processor checks these values, and others' values do no harm.
    """

    topic_settings: ClassVar[tuple[str, ...]] = ("tickets_topic_name",)

    tickets_topic_name: Annotated[Name, _also("topic_name")] = "client_tickets"
    tickets_topic_partitions: Annotated[int, Field(ge=1), _also("topic_partitions")] = 3
    tickets_topic_replication: Annotated[int, Field(ge=1), _also("topic_replication")] = 1
    # Tickets per second.
    tickets_producer_rate: Annotated[float, Field(ge=0), _also("producer_rate")] = 10
    # Seconds to keep trying while no broker answers.
    tickets_producer_timeout: Annotated[float, Field(ge=1), _also("producer_timeout")] = 30
    tickets_spark_memory: Annotated[str, _also("spark_memory")] = "1g"
    tickets_spark_executor_cores: Annotated[int, Field(ge=1), _also("spark_executor_cores")] = 2
    tickets_output_format: Annotated[str, _also("output_format")] = "parquet"
    tickets_output_path: Annotated[Path, _also("output_path")] = ROOT / "data" / "output"
    tickets_log_level: Annotated[str, _also("log_level")] = "INFO"
    # docker: the processor gives its files to the owner of the output folder.
    tickets_environment: Annotated[str, _also("environment")] = "local"
    # host:port of the tickets' broker. Default: the stack's Kafka.
    tickets_redpanda_broker_local: Annotated[str, _also("redpanda_broker_local")] = ""

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
    page="tickets_page",
    ledger="jobs.tickets.ledger:take_ledger",
    services=("kafka",),
)
