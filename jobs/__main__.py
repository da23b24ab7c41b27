"""The command line: `python -m jobs --help`. The Makefile's targets call it."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.table import Table

from jobs import settings as configuration
from jobs.errors import DatastreamError
from jobs.kafka import topics as kafka_topics
from jobs.settings import ROOT, Settings

app = typer.Typer(
    help="Look after the stack: topics, lag, ledger, dead letters, one ride's way, the report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()


@app.command()
def topics() -> None:
    """Create the topics of infra/kafka/topics.yml that are missing; report how the others differ."""
    settings = configuration.load()
    declared = kafka_topics.declared(ROOT / "infra" / "kafka" / "topics.yml", topic_names(settings))
    created, differences = kafka_topics.apply({"bootstrap.servers": settings.bootstrap_servers}, declared)
    table = Table("topic", "partitions", "is")
    for topic in declared:
        unlike = [
            f"{found.what} {found.has}, declared {found.declared}" for found in differences if found.topic == topic.name
        ]
        table.add_row(
            topic.name,
            str(topic.partitions),
            "created" if topic.name in created else "; ".join(unlike) or "as declared",
        )
    console.print(table)


def topic_names(settings: Settings) -> dict[str, str]:
    """The topics' names by their settings."""
    return {"RAW_TOPIC": settings.raw_topic, "RESULT_TOPIC": settings.result_topic, "DLQ_TOPIC": settings.dlq_topic}


def main() -> None:
    """Run a command; our own errors are printed without a traceback."""
    try:
        app()
    except DatastreamError as error:
        Console(stderr=True).print(f"[red]{type(error).__name__}[/]: {error}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
