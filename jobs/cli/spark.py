"""Commands for rides on Spark: which engine owns a group; the stream and the export without Docker."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.app import app, console
from jobs.clients import make_kafka_config
from jobs.environments import become, find_spark_interpreter
from jobs.errors import ConfigurationError
from jobs.rides.spark.vertical import SparkSettings
from jobs.rides.vertical import COMPUTE_GROUP
from jobs.settings import load
from jobs.verticals import find_verticals

if TYPE_CHECKING:
    from jobs.vertical import Engine


spark = typer.Typer(help="Rides on Spark, without Docker: the stream, the export.")
app.add_typer(spark, name="spark")
forwarded = spark.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False
)


class To(StrEnum):
    PYTHON = "python"
    SPARK = "spark"


@app.command()
def engine(
    to: Annotated[To, typer.Argument(help="python: the DAG. spark: the stream of docs/spark.md.")],
    group: Annotated[str, typer.Option(help="The consumer group on RAW_TOPIC.")] = COMPUTE_GROUP,
) -> None:
    """Make one engine the owner of a group. Its offsets stay, and the other engine's workers are fenced.

    It can be run again at any time, also if it was interrupted.
    """
    from jobs.kafka.switch_engine import switch_engine

    groups = {one.id: one.topic for vertical in find_verticals() for one in vertical.groups}
    if groups.get(group) != "raw_topic":
        raise ConfigurationError(f"Group {group!r} does not read RAW_TOPIC, so it has one engine only.")
    settings = load(SparkSettings)
    owner: Engine = to.value
    switched = switch_engine(make_kafka_config(settings), settings.raw_topic, group, owner)
    if switched:
        console.print(f"{group} belongs to {owner} now: {len(switched)} partitions of {settings.raw_topic} changed.")
    else:
        console.print(f"{group} belongs to {owner} already.")


@forwarded
def stream(context: typer.Context) -> None:
    """Run `python -m jobs.spark_enrich stream` in .venv-spark. Accepts its options."""
    _become("jobs.spark_enrich", "stream", *context.args)


@forwarded
def export(context: typer.Context) -> None:
    """Run `python -m jobs.spark_export` in .venv-spark. Accepts its options."""
    _become("jobs.spark_export", *context.args)


def _become(module: str, *arguments: str) -> None:
    settings = load(SparkSettings)
    password = settings.spark_cluster_password
    secrets = {"SPARK_CLUSTER_PASSWORD": password} if password else {}
    become(find_spark_interpreter(), "-m", module, *arguments, settings=settings, **secrets)
