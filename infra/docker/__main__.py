"""The command line for the stack in Docker: `python -m infra.docker --help`. The Makefile calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import requests
import typer
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from infra.docker import compose, environment, preflight
from infra.kibana.saved_objects import Key, Kibana
from infra.preflight import Finding, demand, show
from jobs.clients import make_local_session
from jobs.errors import IS_IT_UP, DatastreamError, ServiceUnavailableError
from jobs.settings import LOOPBACK, Settings, load
from jobs.terminal import escape, make_console, print_error, print_pairs
from jobs.verticals import find_verticals

app = typer.Typer(
    help="The stack in Docker: generate secrets, check this machine, start, check the running stack, delete its data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = make_console()


@app.command()
def env() -> None:
    """Write .env, or the secrets of ENV, with generated secrets, unless it exists."""
    is_new = environment.write()
    name = environment.FILE_NAME
    console.print(
        f"Wrote {name} with generated secrets. `grep PASSWORD {name}` shows them."
        if is_new
        else f"Kept the existing {name}. `grep PASSWORD {name}` shows its passwords."
    )


@app.command()
def doctor() -> None:
    """Check whether this machine can run the stack; changes nothing."""
    _show(preflight.run_checks(load(Settings)))


@app.command()
def up() -> None:
    """Start the stack and wait until it is healthy. Harmless to repeat."""
    # Before .env is written: a running stack does not know the new secrets.
    demand(preflight.run_checks(load(Settings)))
    env()
    compose.up()
    print_addresses(load(Settings))


@app.command()
def clean(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete the stack's containers, networks and volumes: all its data."""
    try:
        volumes = compose.list_volumes()
    except ServiceUnavailableError as error:
        console.print(f"Deleted nothing in Docker: {escape(str(error))}")
        return
    if not volumes and not compose.list_containers():
        console.print("Docker has no data of this stack.")
        return
    if not yes:
        typer.confirm(f"Delete all data of the Docker stack ({', '.join(volumes)})?", abort=True)
    compose.down("--volumes")
    console.print(f"Deleted. Kept {environment.FILE_NAME} and the images.")


@app.command()
def check() -> None:
    """Wait until every container is healthy, then check the dashboards in Kibana and the broker in Kafka-UI."""
    settings = load(Settings)
    checks: dict[str, Callable[[Settings], str]] = {"containers": _check_containers}
    for name in (vertical.dashboard for vertical in find_verticals() if vertical.dashboard):
        checks[f"data view {name}"] = partial(_check_data_view, name)
        checks[f"dashboard {name}"] = partial(_check_dashboard, name)
    checks["Kafka-UI"] = _check_kafka_ui
    findings = []
    for name, run in checks.items():
        try:
            findings.append(Finding(name, True, run(settings)))
        except (DatastreamError, requests.RequestException) as error:
            findings.append(Finding(name, False, str(error)))
    _show(findings)


def _check_containers(settings: Settings) -> str:
    attempts = Retrying(retry=retry_if_result(bool), stop=stop_after_delay(compose.HEALTHY_S), wait=wait_fixed(2))
    try:
        attempts(compose.list_faults)
    except RetryError as error:
        raise ServiceUnavailableError(f"{', '.join(compose.list_faults())}.\n{compose.describe_failures()}") from error
    return f"{len(compose.list_services())}, all healthy or done"


def _check_data_view(name: str, settings: Settings) -> str:
    answer = _get(f"{settings.kibana_address}/api/data_views/data_view/{name}", ("elastic", settings.elastic_password))
    return f"{answer['data_view']['title']}, by {answer['data_view']['timeFieldName']}"


def _check_dashboard(name: str, settings: Settings) -> str:
    objects = Kibana(settings).with_references(Key("dashboard", name))
    return f"{objects[Key('dashboard', name)]['attributes']['title']}, with {len(objects) - 1} saved objects"


def _check_kafka_ui(settings: Settings) -> str:
    (cluster,) = _get(f"http://{LOOPBACK}:{settings.kafka_ui_port}/api/clusters")
    if cluster["status"] != "online":
        raise ServiceUnavailableError(f"its cluster {cluster['name']} is {cluster['status']}")
    return f"{cluster['name']} is online"


def _show(findings: Sequence[Finding]) -> None:
    """Print the findings; ends with exit code 1 if one is a fault."""
    show(findings, console)
    if not all(finding.fits for finding in findings):
        raise typer.Exit(1)


def _get(url: str, login: tuple[str, str] | None = None) -> Any:
    answer = make_local_session().get(url, auth=login, timeout=30)
    if not answer.ok:
        raise ServiceUnavailableError(f"{url} answers {answer.status_code}. {IS_IT_UP}")
    return answer.json()


def print_addresses(settings: Settings) -> None:
    """Print the addresses, the logins and the next commands."""
    places = (
        ("Airflow", f"http://localhost:{settings.airflow_port}  login {settings.airflow_user}, AIRFLOW_PASSWORD"),
        ("Kibana", f"http://localhost:{settings.kibana_port}  login elastic, ELASTIC_PASSWORD"),
        ("Kafka-UI", f"http://localhost:{settings.kafka_ui_port}"),
        ("Elasticsearch", f"{settings.es_url}  login elastic, ELASTIC_PASSWORD"),
        ("Kafka", settings.bootstrap_servers),
        ("Passwords", f"grep PASSWORD {environment.FILE_NAME}"),
        ("Test", "make smoke"),
        ("Stop", "make down (keeps the data); make clean (deletes it)"),
    )
    print_pairs(console, places)


def main() -> None:
    """Run a command; prints our own errors without a traceback."""
    try:
        app()
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)


if __name__ == "__main__":
    main()
