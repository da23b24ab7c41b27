"""Setting the stack up: topics, index templates, the bucket, DAGs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from jobs import airflow_api
from jobs.cli.app import app, console
from jobs.clients import make_elasticsearch_admin, make_kafka_config, make_storage_client
from jobs.kafka import topics as kafka_topics
from jobs.settings import load
from jobs.verticals import find_verticals, list_index_templates, load_declared_topics, merge_settings

# What takes long to load (pyarrow, the clients of the sinks) is imported by the commands that need it.


@app.command()
def topics(
    apply: Annotated[bool, typer.Option("--apply", help="Give existing topics the declared settings.")] = False,
) -> None:
    """Create the topics of infra/kafka/topics that are missing; report how the others differ."""
    settings = load(merge_settings())
    declared = load_declared_topics(settings)
    config = make_kafka_config(settings)
    created, differences = kafka_topics.apply(config, declared)
    altered = set(differences)
    if apply:
        differences = kafka_topics.alter(config, differences)
    altered -= set(differences)
    table = Table("topic", "partitions", "state")
    for topic in declared:
        unlike = [f"{it.what} is {it.has}, declared {it.declared}" for it in differences if it.topic == topic.name]
        unlike += [f"{it.what} was {it.has}, is {it.declared} now" for it in altered if it.topic == topic.name]
        state = "created" if topic.name in created else "\n".join(unlike) or "as declared"
        table.add_row(topic.name, str(topic.partitions), state)
    console.print(table)
    if any(it.what != kafka_topics.PARTITIONS for it in differences):
        console.print("Nothing that exists was altered. `make topics APPLY=1` gives it the declared settings.")
    if any(it.what == kafka_topics.PARTITIONS for it in differences):
        console.print('Partitions are added by hand: docs/runbook_kafka.md, "More partitions".')


@app.command()
def template() -> None:
    """Apply the Elasticsearch index templates of infra/elasticsearch."""
    from jobs.sinks.elasticsearch import apply_template

    settings = load(merge_settings())
    client = make_elasticsearch_admin(settings)
    for index, path in list_index_templates(settings).items():
        apply_template(client, index, path)
        console.print(f"Index template {index} is applied.")


@app.command()
def bucket() -> None:
    """Create the emulator's bucket; at Google, check that it exists."""
    from jobs.sinks.parquet import check_bucket, create_bucket

    settings = load(merge_settings())
    client = make_storage_client(settings)
    if settings.gcs_endpoint:
        create_bucket(client, settings.bucket)
    check_bucket(client, settings.bucket)
    console.print(f"Bucket {settings.bucket} is there.")


@app.command()
def unpause() -> None:
    """Toggle the DAGs on, through Airflow's API; waits up to a minute for Airflow to know them."""
    dags = [dag for vertical in find_verticals() for dag in vertical.dags]
    airflow_api.unpause(load(merge_settings()), dags)
    console.print(f"On: {', '.join(dags)}")
