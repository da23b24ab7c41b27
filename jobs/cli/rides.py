"""Commands for rides: produce, repair, report, trace one ride."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs import airflow_api
from jobs.cli.app import AsJson, app, console, error_console, progress_bars, show_in
from jobs.cli.sightings import show_trace
from jobs.clients import Systems, make_elasticsearch_client
from jobs.inherited import make_environment
from jobs.rides.vertical import EXPORT_FLUSH, VERTICAL, RidesSettings
from jobs.settings import ROOT, load
from jobs.terminal import escape, print_pairs


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def produce(context: typer.Context) -> None:
    """Run producer/producer.py with the topic and broker from the settings. Accepts the options of the producer."""
    settings = load(RidesSettings)
    variables = {"RAW_TOPIC": settings.raw_topic, "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers}
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), *context.args]
    os.execve(sys.executable, command, make_environment(variables))  # noqa: S606 (our own program, no shell)


@app.command()
def where() -> None:
    """Show where to look and how to stop."""
    settings = load(RidesSettings)
    state = settings.datastream_state
    state = state.relative_to(Path.cwd()) if state.is_relative_to(Path.cwd()) else state
    places = (
        ("Report", f"{state}/report.html"),
        ("Ledger", f"{state}/ledger.json"),
        ("Airflow", f"http://localhost:{settings.airflow_port} (login {settings.airflow_user})"),
        ("Elasticsearch", f"{settings.es_url}/{settings.rides_index}/_search?size=1"),
        ("Kafka", settings.bootstrap_servers),
        ("Logs", f"{state}/logs"),
        ("More rides", "make produce"),
        ("What is left", "make lag"),
        ("Stop", "make local-down (keeps the data); make clean (deletes it)"),
    )
    print_pairs(console, places)


@app.command()
def reindex() -> None:
    """Rebuild the Elasticsearch index from Parquet, with the same ids. Safe to repeat, and while the DAGs run."""
    from jobs.rides.ops.reindex import reindex as rebuild

    settings = load(RidesSettings)
    with progress_bars() as bars:
        done = rebuild(Systems(settings, show_in(bars), may_write=True))
    console.print(
        f"Read {done.rows:,} rows from {done.objects:,} objects, and {done.results:,} results that are not exported "
        f"yet. {settings.rides_index} holds {done.documents:,} rides, each in its latest version."
    )
    if done.expired:
        console.print(f"Skipped {done.expired:,} rows older than {settings.rides_index_retention_days} days.")
    if done.refused:
        console.print(f"Elasticsearch rejected {done.refused:,} rows. The first reason: {escape(done.refusal)}")


@app.command()
def reprocess(
    start: Annotated[
        str, typer.Argument(metavar="FROM", help="A date (midnight UTC) or a time: 2026-01-05T08:00:00Z.")
    ],
    end: Annotated[str, typer.Argument(metavar="TO", help="The exclusive end of the window, in the same form.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Price the rides with FROM ≤ ts < TO again, end to end. Run it again to resume."""
    from jobs.rides.ops import reprocess as work

    settings = load(RidesSettings)
    window = work.parse_window(start, end)

    def plan() -> work.Work:
        with progress_bars() as bars:
            return work.plan_work(Systems(settings, show_in(bars), may_write=True), window)

    planned = plan()
    if not (planned.rides or planned.earlier.count or planned.is_begun):
        console.print(f"{settings.raw_topic} holds no priced ride with {window}. Nothing was changed.")
        return
    if planned.is_begun:
        console.print(f"Resuming with the {len(planned.rides):,} rides of {window}.")
    elif not planned.rides:
        console.print(f"No ride of {window} needs a new price. Purging what an earlier reprocessing has replaced.")
    elif not yes:
        typer.confirm(f"Price {len(planned.rides):,} rides of {window} again, and purge their old prices?", abort=True)
        planned = plan()  # new rides may have arrived before the answer
    with progress_bars() as bars:
        systems = Systems(settings, show_in(bars), may_write=True)
        done = work.reprocess(
            systems, planned, lambda: airflow_api.trigger(settings, EXPORT_FLUSH.dag_id, EXPORT_FLUSH.conf)
        )
    console.print(
        f"Priced {done.rides:,} rides again ({done.copies:,} messages). Deleted {done.rows:,} rows of old results from "
        f"Parquet, and {done.rejected:,} rides that are rejected now from {settings.rides_index}."
    )
    if done.untouched:
        console.print(
            f"{done.untouched:,} more rides of the window keep their prices: retention has deleted their messages from "
            f"{settings.raw_topic}."
        )
    console.print("`make ledger` checks that the figures add up.")


@app.command()
def report() -> None:
    """Write the report page from aggregations in Elasticsearch."""
    write_report_page(console)


def write_report_page(console: Console) -> None:
    """Write the report page and print its path."""
    from jobs.rides.report import write_report

    settings = load(RidesSettings)
    path = settings.datastream_state / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(make_elasticsearch_client(settings), settings.rides_index, path)
    console.print(f"Wrote {path}")


@app.command()
def trace(ride: Annotated[str, typer.Argument(help="A ride_id.")], as_json: AsJson = False) -> None:
    """Show where a ride is: in the topics, Elasticsearch and Parquet. Exit code 1 if it is nowhere.

    Also shows the log lines of the runs that processed it. JSON: ride_id;
    sightings: place, position, error, content; log. The content is the text
    of a message, {"base64": …} if it is not UTF-8, or an object.
    """
    from jobs.rides.ops.trace import trace as trace_ride

    ride_id = ride.strip().lower()
    settings = load(RidesSettings)
    with progress_bars() as bars:
        sightings = list(trace_ride(Systems(settings, show_in(bars)), ride_id))
    show_trace(settings, VERTICAL, {"ride_id": ride_id}, sightings, as_json=as_json)
    if not sightings:
        error_console.print(f"Ride {escape(ride_id)} was not found in Kafka, Elasticsearch or Parquet.")
        raise typer.Exit(1)
