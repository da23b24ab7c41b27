"""The command line: `python -m infra.docker --help`. The Makefile's targets call it."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import requests
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.docker import compose, environment, preflight
from infra.kibana.saved_objects import Key, Kibana
from infra.preflight import demand, show
from jobs import settings as configuration
from jobs.errors import IS_IT_UP, DatastreamError, ServiceUnavailableError
from jobs.settings import LOOPBACK, Settings

app = typer.Typer(
    help="The stack in Docker: generated secrets, a check before the start, and what `make smoke` looks at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)


@app.command()
def env() -> None:
    """Write .env with generated secrets, if there is none."""
    made = environment.make()
    console.print(
        "Wrote .env with generated secrets. `grep PASSWORD .env` shows them."
        if made
        else ".env is there and stays as it is. `grep PASSWORD .env` shows its passwords."
    )


@app.command()
def doctor() -> None:
    """Check whether this machine can run the stack, and change nothing."""
    findings = preflight.findings(configuration.load())
    show(findings, console)
    if not all(finding.fits for finding in findings):
        raise typer.Exit(1)


@app.command()
def up() -> None:
    """Start the stack and wait until it is healthy. Harmless to repeat."""
    env()
    settings = configuration.load()
    demand(preflight.findings(settings))
    compose.up()
    where(settings)


@app.command()
def clean(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove the stack's containers, networks and volumes: all its data."""
    volumes = compose.volumes()
    if not volumes and not compose.containers():
        console.print("Docker holds nothing of this stack.")
        return
    if not yes:
        typer.confirm(f"Delete all data of the Docker stack ({', '.join(volumes)})?", abort=True)
    compose.down("--volumes")
    console.print("Removed. .env and the images are left.")


@app.command()
def check() -> None:
    """See that every container is well, that Kibana has its dashboard, and that Kafka-UI sees the broker."""
    settings = configuration.load()
    table = Table("what", "state")
    faults = []
    for what, look in (("containers", _containers), ("Kibana's data view", _data_view),
                       ("Kibana's dashboard", _dashboard), ("Kafka-UI", _kafka_ui)):  # fmt: skip
        try:
            table.add_row(what, f"[green]✓[/] {escape(look(settings))}")
        except (DatastreamError, requests.RequestException) as error:
            table.add_row(what, f"[red]✗[/] {escape(str(error))}")
            faults.append(what)
    console.print(table)
    if faults:
        raise typer.Exit(1)


def _containers(settings: Settings) -> str:
    found = compose.containers()
    ill = [f"{it.service} is {it.health or it.state}" for it in found if not it.is_well]
    if ill or not found:
        raise ServiceUnavailableError(", ".join(ill) or "none is there: `make up` starts them")
    return f"{len(found)}, all healthy or done"


def _data_view(settings: Settings) -> str:
    answer = _get(f"{settings.kibana_address}/api/data_views/data_view/rides", ("elastic", settings.elastic_password))
    return f"{answer['data_view']['title']}, by {answer['data_view']['timeFieldName']}"


def _dashboard(settings: Settings) -> str:
    objects = Kibana(settings).with_references(Key("dashboard", "rides"))
    return f"{objects[Key('dashboard', 'rides')]['attributes']['title']}, with {len(objects) - 1} saved objects"


def _kafka_ui(settings: Settings) -> str:
    return str(_get(f"http://{LOOPBACK}:{settings.kafka_ui_port}/actuator/health")["status"])


def _get(url: str, login: tuple[str, str] | None = None) -> dict[str, dict[str, str]]:
    answer = requests.get(url, auth=login, timeout=30)
    if not answer.ok:
        raise ServiceUnavailableError(f"{url} answers {answer.status_code}. {IS_IT_UP}")
    content: dict[str, dict[str, str]] = answer.json()
    return content


def where(settings: Settings) -> None:
    """Tell where to look and how to stop."""
    table = Table.grid(padding=(0, 2))
    for what, place in (
        ("Airflow", f"http://localhost:{settings.airflow_port}  login {settings.airflow_user}, AIRFLOW_PASSWORD"),
        ("Kibana", f"http://localhost:{settings.kibana_port}  login elastic, ELASTIC_PASSWORD"),
        ("Kafka-UI", f"http://localhost:{settings.kafka_ui_port}"),
        ("Elasticsearch", f"{settings.es_url}  login elastic, ELASTIC_PASSWORD"),
        ("Kafka", settings.bootstrap_servers),
        ("Passwords", "grep PASSWORD .env"),
        ("Prove it", "make smoke"),
        ("Stop", "make down (keeps the data); make clean (deletes it)"),
    ):
        table.add_row(what, place)
    console.print(table)


def main() -> None:
    """Run a command; our own errors are printed without a traceback."""
    try:
        app()
    except DatastreamError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(1)
    except subprocess.TimeoutExpired as error:
        sys.exit(f"error: {error}. Is the Docker engine busy?")


if __name__ == "__main__":
    main()
