"""Set up the stack: topics, index templates, the bucket, DAGs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from jobs import airflow_api
from jobs.cli.app import app, console
from jobs.clients import make_elasticsearch_admin, make_storage_client
from jobs.kafka import topics as kafka_topics
from jobs.settings import load
from jobs.terminal import fit_table
from jobs.verticals import (
    find_vertical,
    list_index_templates,
    load_declared_topics,
    merge_settings,
)

# Commands import what loads slowly (pyarrow, the clients of the sinks) only when they run.


@app.command()
def topics(
    vertical: Annotated[
        str, typer.Argument(help="Create the topics on this vertical's broker, if it uses Kafka.")
    ] = "rides",
    apply: Annotated[bool, typer.Option("--apply", help="Apply the declared settings to existing topics too.")] = False,
) -> None:
    """Create the missing topics of infra/kafka/topics, and report how existing ones differ."""
    settings = load(merge_settings())
    declaration = find_vertical(vertical)
    if "kafka" not in declaration.services:
        console.print(f"The vertical {vertical} has no Kafka.")
        return
    broker = getattr(settings, declaration.broker)
    declared = load_declared_topics(settings, broker)
    config = {"bootstrap.servers": broker}
    created, differences = kafka_topics.apply(config, declared)
    altered = set(differences)
    if apply:
        differences = kafka_topics.alter(config, differences)
    altered -= set(differences)
    table = Table("topic", Column("partitions", justify="right"), "state")
    for topic in declared:
        own = [fault for fault in differences if fault.topic == topic.name]
        lines = [f"{fault.what} is {fault.has}, declared {fault.declared}" for fault in own]
        own = [fault for fault in altered if fault.topic == topic.name]
        lines += [f"{fault.what} was {fault.has}, is {fault.declared} now" for fault in own]
        state = "created" if topic.name in created else "\n".join(lines) or "as declared"
        table.add_row(topic.name, str(topic.partitions), state)
    console.print(fit_table(console, table))
    if any(fault.what != kafka_topics.PARTITIONS for fault in differences):
        console.print("Existing topics were not altered. `make topics APPLY=1` applies the declared settings.")
    if any(fault.what == kafka_topics.PARTITIONS for fault in differences):
        console.print('Add partitions by hand: docs/runbook_kafka.md, "More partitions".')


@app.command()
def template(
    vertical: Annotated[str, typer.Argument(help="Only if this vertical uses Elasticsearch.")] = "rides",
) -> None:
    """Apply the Elasticsearch index templates of infra/elasticsearch, and create the indices that are missing."""
    from jobs.sinks.elasticsearch import set_up_index

    settings = load(merge_settings())
    if "elasticsearch" not in find_vertical(vertical).services:
        console.print(f"The vertical {vertical} has no Elasticsearch.")
        return
    client = make_elasticsearch_admin(settings)
    for index, path in list_index_templates(settings).items():
        set_up_index(client, index, path)
        console.print(f"Applied index template {index}.")


@app.command()
def bucket() -> None:
    """Create the bucket in the emulator; on Google Cloud, check that it exists."""
    from jobs.sinks.parquet import check_bucket, create_bucket

    settings = load(merge_settings())
    client = make_storage_client(settings)
    if settings.gcs_endpoint:
        create_bucket(client, settings.bucket)
    check_bucket(client, settings.bucket)
    console.print(f"Bucket {settings.bucket} exists.")


@app.command()
def unpause(vertical: Annotated[str, typer.Argument(help="The vertical whose DAGs to turn on.")] = "rides") -> None:
    """Turn the DAGs of a vertical on, through Airflow's API. Waits up to two minutes for Airflow to parse them."""
    dags = find_vertical(vertical).dags
    airflow_api.unpause(load(merge_settings()), dags)
    console.print(f"Turned on {', '.join(dags)}.")
