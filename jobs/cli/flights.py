"""Commands for the flights: collect, generate, run the DAGs, relay, quota, page, trace."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from datetime import UTC, datetime
from enum import StrEnum
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from jobs import airflow_api
from jobs.cli.app import AsJson, app, console, error_console, progress_bars, show_in
from jobs.cli.sightings import show_trace
from jobs.clients import Systems
from jobs.errors import CommandError
from jobs.flights.vertical import CLEAN_DAG, COLLECT_DAGS, VERTICAL, FlightsSettings
from jobs.inherited import make_environment
from jobs.settings import LOOPBACK, ROOT, load
from jobs.terminal import escape, fit_table, print_json

if TYPE_CHECKING:
    from jobs.flights.buffer import Added

flights = typer.Typer(
    help="Flights and weather: collect from many sources, relay to Kafka, show quotas, the page, one observation.",
    no_args_is_help=True,
)
app.add_typer(flights, name="flights")


class Source(StrEnum):
    """What `collect` can read."""

    WEATHER = "weather"
    FLIGHTS = "flights"
    DEPARTURES = "departures"
    CSV = "csv"


class Generated(StrEnum):
    """What `generate` can make."""

    FLIGHTS = "flights"
    WEATHER = "weather"


@flights.command()
def collect(source: Annotated[Source, typer.Argument(help="The source to read.")]) -> None:
    """Read one source now, without Airflow, and put what it gives into the buffer."""
    from jobs.flights import collect as collectors
    from jobs.flights.buffer import Added

    settings, added = load(FlightsSettings), Added()
    try:
        if source is Source.WEATHER:
            collectors.collect_weather(settings, added)
        elif source is Source.FLIGHTS:
            collectors.collect_flights(settings, added, datetime.now(UTC).replace(second=0, microsecond=0))
        elif source is Source.DEPARTURES:
            collectors.scrape(settings, added, lambda line: error_console.print(line, markup=False))
        else:
            collectors.import_csv(settings, added)
    finally:
        _print_added(source, added)


@flights.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def generate(context: typer.Context, what: Annotated[Generated, typer.Argument(help="flights or weather")]) -> None:
    """Run producer/flights/generate_<what>.py and collect what it prints. Accepts its options.

    They are shown by: python producer/flights/generate_flights.py --help
    """
    from jobs.flights.buffer import Added
    from jobs.flights.collect import collect_lines
    from jobs.flights.contract import Kind

    settings, added = load(FlightsSettings), Added()
    kind = Kind.FLIGHT if what is Generated.FLIGHTS else Kind.WEATHER
    script = ROOT / "producer" / "flights" / f"generate_{what}.py"
    command = [sys.executable, str(script), *context.args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=make_environment()) as generator:
        assert generator.stdout is not None  # noqa: S101 (it is a pipe)
        try:
            collect_lines(settings, added, generator.stdout, kind, "faker")
        except KeyboardInterrupt:
            generator.wait()  # Ctrl-C has ended it, too
        finally:
            _print_added(script.name, added)
    if generator.returncode:
        raise CommandError(generator.returncode, f"{script.name} ended with exit code {generator.returncode}.")


def _print_added(source: str, added: Added) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in added.reasons.most_common())
    console.print(
        f"{source}: {added.observed:,} observations, {added.repeated:,} repeats, {added.rejected:,} rejects"
        f"{f' ({reasons})' if reasons else ''}"
    )


@flights.command()
def run(timeout: Annotated[float, typer.Option(help="The maximum time to wait, in seconds.", min=1)] = 600) -> None:
    """Run the DAGs in Airflow and wait: all that collect, then the relay, then the one that cleans."""
    from jobs.flights.waiting import wait_until_relayed

    settings = load(FlightsSettings)
    runs = {dag: airflow_api.trigger(settings, dag, {}) for dag in COLLECT_DAGS}
    with error_console.status("Collecting"):
        for dag, run_id in runs.items():
            airflow_api.wait_for_run(settings, dag, run_id, timeout)
    console.print(f"Collected: {', '.join(runs)}.")
    with error_console.status("Waiting for the relay"):
        wait_until_relayed(settings, timeout)
    console.print("Relayed: the buffer is empty.")
    with error_console.status(f"Waiting for {CLEAN_DAG}"):
        airflow_api.wait_for_run(settings, CLEAN_DAG, airflow_api.trigger(settings, CLEAN_DAG, {}), timeout)
    console.print(f"Cleaned and exported: {CLEAN_DAG}.")


@flights.command()
def relay(host: Annotated[str, typer.Option(help="Where the metrics are served.")] = LOOPBACK) -> None:
    """Move observations from the buffer into the stores and to Kafka, until Ctrl-C. Serves metrics."""
    from jobs.flights.relay_service import run as run_relay

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    stopped = Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    run_relay(load(FlightsSettings), stopped, host)


@flights.command()
def quota(as_json: AsJson = False) -> None:
    """Show how many requests each API has left. JSON: a list of source, period, used, limit, left, resets_at."""
    from jobs.flights.quota import list_quotas

    rows = list_quotas(load(FlightsSettings))
    if as_json:
        print_json(rows)
        return
    numbers = (Column(name, justify="right") for name in ("used", "of", "left"))
    table = Table("API", "period", *numbers, "starts again")
    for row in rows:
        table.add_row(
            escape(row.source), row.period, f"{row.used:,}", f"{row.limit:,}", f"{row.left:,}",
            f"{row.resets_at:%Y-%m-%d %H:%M} UTC",
        )  # fmt: skip
    console.print(fit_table(console, table))


@flights.command()
def page() -> None:
    """Write the HTML page: delays by airport, weather against delay, a map."""
    from jobs.flights.page import write_page

    console.print(f"Wrote {write_page(load(FlightsSettings))}")


@flights.command()
def trace(event: Annotated[str, typer.Argument(help="An event_id.")], as_json: AsJson = False) -> None:
    """Show where an observation is: in the buffer, the topics and the stores. Exit code 1 if it is nowhere.

    Also shows the log lines of the runs that cleaned it. JSON: event_id;
    sightings: place, position, error, content; log.
    """
    from jobs.flights.trace import trace as trace_event

    event_id = event.strip()
    settings = load(FlightsSettings)
    with progress_bars() as bars:
        sightings = list(trace_event(Systems(settings, show_in(bars)), event_id))
    show_trace(settings, VERTICAL, {"event_id": event_id}, sightings, as_json=as_json)
    if not sightings:
        error_console.print(f"Observation {escape(event_id)} was not found in Redis, Kafka, MySQL or Cassandra.")
        raise typer.Exit(1)
