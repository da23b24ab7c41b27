"""Commands for tickets without Docker: produce, process, view. In Docker, the scripts run in their containers."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from jobs.cli.app import app
from jobs.environments import become, find_spark_interpreter
from jobs.settings import ROOT, load
from jobs.tickets.vertical import TicketsSettings

tickets = typer.Typer(help="Support tickets: send them, process them with Spark, show the outputs.")
app.add_typer(tickets, name="tickets")
forwarded = tickets.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False
)


@forwarded
def produce(context: typer.Context) -> None:
    """Run producer/tickets/ticket_producer.py with the topic and broker of the settings. Accepts its options."""
    _run(Path(sys.executable), "producer/tickets/ticket_producer.py", context.args)


@forwarded
def process(context: typer.Context) -> None:
    """Run jobs/tickets/spark_processor.py in .venv-spark. Accepts its options."""
    _run(find_spark_interpreter(), "jobs/tickets/spark_processor.py", context.args)


@forwarded
def view(context: typer.Context) -> None:
    """Run jobs/tickets/view_results.py. Accepts its options."""
    _run(Path(sys.executable), "jobs/tickets/view_results.py", context.args)


def _run(python: Path, script: str, arguments: list[str]) -> None:
    settings = load(TicketsSettings)
    become(
        python, str(ROOT / script), *arguments, settings=settings, TICKETS_REDPANDA_BROKER_LOCAL=settings.tickets_broker
    )
