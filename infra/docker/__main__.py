"""The command line: `python -m infra.docker --help`. The Makefile's targets call it."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Any

import requests
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from infra.docker import compose, environment, preflight
from infra.kibana.saved_objects import Key, Kibana
from infra.preflight import demand, show
from jobs.clients import make_local_session
from jobs.errors import IS_IT_UP, DatastreamError, ServiceUnavailableError
from jobs.settings import LOOPBACK, Settings, load
from jobs.verticals import find_verticals

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
    findings = preflight.findings(load(Settings))
    show(findings, console)
    if not all(finding.fits for finding in findings):
        raise typer.Exit(1)


@app.command()
def up() -> None:
    """Start the stack and wait until it is healthy. Harmless to repeat."""
    # Before .env is written: a running stack would not know the new secrets if this fails.
    demand(preflight.findings(load(Settings)))
    env()
    compose.up()
    where(load(Settings))


@app.command()
def clean(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove the stack's containers, networks and volumes: all its data."""
    try:
        volumes = compose.volumes()
    except ServiceUnavailableError as error:
        console.print(f"Docker's part is left as it is: {escape(str(error))}")
        return
    if not volumes and not compose.containers():
        console.print("Docker holds nothing of this stack.")
        return
    if not yes:
        typer.confirm(f"Delete all data of the Docker stack ({', '.join(volumes)})?", abort=True)
    compose.down("--volumes")
    console.print("Removed. .env and the images are left.")


@app.command()
def check() -> None:
    """Wait until every container is well, then check that Kibana has the dashboards and Kafka-UI sees the broker."""
    settings = load(Settings)
    table = Table("what", "state")
    faults = []
    looks = {"containers": _containers}
    for name in (vertical.dashboard for vertical in find_verticals() if vertical.dashboard):
        looks |= {f"data view {name}": partial(_data_view, name), f"dashboard {name}": partial(_dashboard, name)}
    looks["Kafka-UI"] = _kafka_ui
    for what, look in looks.items():
        try:
            table.add_row(what, f"[green]✓[/] {escape(look(settings))}")
        except (DatastreamError, requests.RequestException) as error:
            table.add_row(what, f"[red]✗[/] {escape(str(error))}")
            faults.append(what)
    console.print(table)
    if faults:
        raise typer.Exit(1)


def _containers(settings: Settings) -> str:
    attempts = Retrying(retry=retry_if_result(bool), stop=stop_after_delay(compose.HEALTHY_S), wait=wait_fixed(2))
    try:
        attempts(compose.faults)
    except RetryError as error:
        raise ServiceUnavailableError(f"{', '.join(compose.faults())}.\n{compose.culprits()}") from error
    return f"{len(compose.services())}, all healthy or done"


def _data_view(name: str, settings: Settings) -> str:
    answer = _get(f"{settings.kibana_address}/api/data_views/data_view/{name}", ("elastic", settings.elastic_password))
    return f"{answer['data_view']['title']}, by {answer['data_view']['timeFieldName']}"


def _dashboard(name: str, settings: Settings) -> str:
    objects = Kibana(settings).with_references(Key("dashboard", name))
    return f"{objects[Key('dashboard', name)]['attributes']['title']}, with {len(objects) - 1} saved objects"


def _kafka_ui(settings: Settings) -> str:
    (cluster,) = _get(f"http://{LOOPBACK}:{settings.kafka_ui_port}/api/clusters")
    if cluster["status"] != "online":
        raise ServiceUnavailableError(f"its cluster {cluster['name']} is {cluster['status']}")
    return f"{cluster['name']} is online"


def _get(url: str, login: tuple[str, str] | None = None) -> Any:
    answer = make_local_session().get(url, auth=login, timeout=30)
    if not answer.ok:
        raise ServiceUnavailableError(f"{url} answers {answer.status_code}. {IS_IT_UP}")
    return answer.json()


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


if __name__ == "__main__":
    main()
