"""Commands for the serverless vertical: deploy, destroy, put, wait, logs, scan, redrive."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from jobs.cli.app import app, console, progress_bars, show_in
from jobs.inherited import make_environment
from jobs.serverless.vertical import LATEST, ServerlessSettings
from jobs.settings import ROOT, load
from jobs.terminal import escape
from jobs.verticals import merge_settings

# The settings of the flights with which put_weather.py reads OpenWeather.
OPENWEATHER = ("flights_openweather_key", "flights_places", "flights_apis_url")

serverless = typer.Typer(
    help="Weather through Kinesis and Lambda into DynamoDB: deploy, put records, wait for them, show logs and items.",
    no_args_is_help=True,
)
app.add_typer(serverless, name="serverless")


@serverless.command()
def deploy() -> None:
    """Create or update stream, tables, queue, role, function and mapping in the emulator. Safe to repeat."""
    from jobs.serverless.deploy import deploy as deploy_all

    deploy_all(load(ServerlessSettings), lambda line: console.print(escape(line)))


@serverless.command()
def destroy(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete everything that deploy creates in the emulator, with all data."""
    from jobs.serverless.deploy import destroy as destroy_all

    if not yes:
        typer.confirm("Delete the stream, the tables and all their data?", abort=True)
    destroy_all(load(ServerlessSettings), lambda line: console.print(escape(line)))


@serverless.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def put(context: typer.Context) -> None:
    """Run producer/serverless/put_weather.py with the emulator and region of the settings. Accepts its options."""
    settings: Any = load(merge_settings())
    script = ROOT / "producer" / "serverless" / "put_weather.py"
    options = [f"--endpoint-url={settings.serverless_endpoint or ''}", f"--region={settings.serverless_region}"]
    # Not as arguments, which the list of processes shows.
    variables = {name.upper(): str(getattr(settings, name)) for name in OPENWEATHER if getattr(settings, name)}
    command = [sys.executable, str(script), *options, *context.args]
    environment = {name: value for name, value in make_environment(variables).items() if not name.startswith("AWS_")}
    # An emulator must not get the login of AWS.
    if settings.serverless_endpoint is None:
        environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    os.execve(sys.executable, command, environment)  # noqa: S606 (our own program, no shell)


@serverless.command()
def wait(timeout: Annotated[float, typer.Option(help="The maximum time to wait, in seconds.", min=1)] = 120) -> None:
    """Wait until each record on the stream is in the history or among the rejects."""
    from jobs.serverless.places import wait_until_stored

    with progress_bars() as bars:
        show = show_in(bars)
        total = wait_until_stored(load(ServerlessSettings), timeout, lambda done, all_: show("stored", done, all_))
    console.print(f"Stored: all {total:,} records of the stream.")


@serverless.command()
def logs(count: Annotated[int, typer.Option("-n", "--count", help="Number of lines.", min=1)] = 20) -> None:
    """Show the function's last log lines."""
    from jobs.serverless.tables import read_log

    for line in read_log(load(ServerlessSettings), count):
        console.print(escape(line))


@serverless.command()
def scan(
    table: Annotated[str, typer.Argument(help="The name of a table.")] = LATEST,
    count: Annotated[int, typer.Option("-n", "--count", help="Number of items.", min=1)] = 10,
) -> None:
    """Show items of a table, each as one line of JSON."""
    from jobs.serverless.tables import show_items

    for item in show_items(load(ServerlessSettings), table, count):
        console.print(escape(item))


@serverless.command()
def redrive() -> None:
    """Give the function the records that the mapping gave up (queue dataflow-failed)."""
    from jobs.serverless.redrive import redrive as redrive_all

    messages, records = redrive_all(load(ServerlessSettings))
    console.print(f"Redrove {messages:,} messages with {records:,} records.")
