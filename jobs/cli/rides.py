"""Commands of the rides: sending some, repairs, the report, one ride's way."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from jobs import airflow_api
from jobs.cli.app import app, console, progress_bars, show_in
from jobs.clients import Systems, make_elasticsearch_client
from jobs.rides.vertical import EXPORT_FLUSH, RidesSettings
from jobs.settings import ROOT, load


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def produce(context: typer.Context) -> None:
    """Run producer/producer.py with the topic and the broker of the settings; takes its options."""
    settings = load(RidesSettings)
    environment = {"RAW_TOPIC": settings.raw_topic, "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers}
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), *context.args]
    os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606 (our own program, no shell)


@app.command()
def where() -> None:
    """Tell where to look and how to stop."""
    settings = load(RidesSettings)
    state = settings.datastream_state
    state = state.relative_to(Path.cwd()) if state.is_relative_to(Path.cwd()) else state
    table = Table.grid(padding=(0, 2))
    for what, place in (
        ("Report", f"{state}/report.html"),
        ("Ledger", f"{state}/ledger.json"),
        ("Airflow", f"http://localhost:{settings.airflow_port} (login {settings.airflow_user})"),
        ("Elasticsearch", f"{settings.es_url}/{settings.rides_index}/_search?size=1"),
        ("Kafka", settings.bootstrap_servers),
        ("Logs", f"{state}/logs"),
        ("More rides", "make produce"),
        ("What is left", "make lag"),
        ("Stop", "make local-down (keeps the data); make clean (deletes it)"),
    ):
        table.add_row(what, place)
    console.print(table, soft_wrap=True)


@app.command()
def reindex() -> None:
    """Rebuild the Elasticsearch index from Parquet, id for id. The DAGs may run meanwhile; harmless to repeat."""
    from jobs.rides.ops.reindex import reindex as rebuild

    settings = load(RidesSettings)
    with progress_bars() as bars:
        done = rebuild(Systems(settings, show_in(bars), may_write=True))
    console.print(
        f"Read {done.rows:,} rows of {done.objects:,} objects and {done.results:,} results that wait for their export. "
        f"{settings.rides_index} holds {done.documents:,} rides, each in its latest version.",
        soft_wrap=True,
    )
    if done.expired:
        console.print(f"{done.expired:,} rows are older than {settings.rides_index_retention_days} days: left out.")
    if done.refused:
        console.print(f"{done.refused:,} rows were refused, for example: {escape(done.refusal)}", soft_wrap=True)


@app.command()
def reprocess(
    start: Annotated[str, typer.Argument(metavar="FROM", help="2026-01-05 (midnight, UTC) or 2026-01-05T08:00:00Z.")],
    end: Annotated[str, typer.Argument(metavar="TO", help="The same; not part of the window.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Price the rides with FROM ≤ ts < TO again, end to end. Run it again to resume."""
    from jobs.rides.ops import reprocess as work

    settings = load(RidesSettings)
    wanted = work.window(start, end)

    def look() -> work.Work:
        with progress_bars() as bars:
            return work.look(Systems(settings, show_in(bars), may_write=True), wanted)

    found = look()
    if not (found.rides or found.earlier.count or found.is_begun):
        console.print(f"{settings.raw_topic} holds no priced ride with {wanted} (any more). Nothing is changed.")
        return
    if found.is_begun:
        console.print(f"Going on with the {len(found.rides):,} rides of {wanted}.")
    elif not found.rides:
        console.print(f"No ride of {wanted} is to be priced anew: what an earlier reprocessing has replaced is purged.")
    elif not yes:
        typer.confirm(f"Price {len(found.rides):,} rides of {wanted} anew, and purge their old prices?", abort=True)
        found = look()  # the question may have stood for hours, and rides have come since
    with progress_bars() as bars:
        systems = Systems(settings, show_in(bars), may_write=True)
        done = work.reprocess(
            systems, found, lambda: airflow_api.trigger(settings, EXPORT_FLUSH.dag_id, EXPORT_FLUSH.conf)
        )
    console.print(
        f"{done.rides:,} rides are priced anew ({done.copies:,} messages). {done.rows:,} rows of old results are out "
        f"of Parquet, {done.rejected:,} rides that are rejected or refused by now out of {settings.rides_index}.",
        soft_wrap=True,
    )
    if done.untouched:
        console.print(
            f"{done.untouched:,} more rides of the window stay as they are: retention has taken their messages from "
            f"{settings.raw_topic}.",
            soft_wrap=True,
        )
    console.print("`make ledger` tells whether all adds up.")


@app.command()
def report() -> None:
    """Write the report page from Elasticsearch's aggregations."""
    from jobs.rides.report import write_report

    settings = load(RidesSettings)
    path = settings.datastream_state / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(make_elasticsearch_client(settings), settings.rides_index, path)
    console.print(f"Wrote {path}", soft_wrap=True)


@app.command()
def trace(ride: Annotated[str, typer.Argument(help="A ride_id.")]) -> None:
    """Show where a ride is: raw, result, dlq, Elasticsearch, Parquet."""
    from jobs.rides.ops.trace import trace as trace_ride

    table = Table("place", Column("position", overflow="fold"), Column("content", overflow="fold"), show_lines=True)
    with progress_bars() as bars:
        for sighting in trace_ride(Systems(load(RidesSettings), show_in(bars)), ride.strip().lower()):
            table.add_row(sighting.place, sighting.position, escape(sighting.content))
    if not table.row_count:
        console.print(f"Ride {ride} is nowhere: not in Kafka (any more), Elasticsearch or Parquet.")
        raise typer.Exit(1)
    console.print(table)
