"""The command line: `python -m infra.local --help`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from rich.table import Table

if sys.platform == "win32":
    sys.exit("The services without Docker run on Linux and macOS.")
try:
    from infra.local.runner import preflight, supervisor
    from infra.local.runner.environment import make_base
    from infra.local.runner.paths import Paths
    from infra.local.runner.stack import READY_S, Stack
    from infra.local.services.airflow import airflow_environment
    from infra.local.services.catalog import SERVICES, local_stack
    from infra.local.services.postgres import make_client_environment
    from infra.local.services.superset import SERVICE as SUPERSET
    from infra.local.services.superset import set_up as set_up_superset
except ModuleNotFoundError as error:
    sys.exit(f"{sys.executable} lacks {error.name}: install the project with its `local` extra (make install)")

from infra.postgres import BACKUP_SCRIPTS
from infra.preflight import show
from jobs.errors import DatastreamError
from jobs.inherited import adopt_proxies, make_environment
from jobs.settings import Settings, load
from jobs.shop.database import ADMIN, BACKUP
from jobs.terminal import escape, fit_table, make_console, print_error, print_pairs
from jobs.verticals import find_vertical, find_verticals, merge_settings

NOT_RUNNING = 3

app = typer.Typer(
    help="Run the services on this machine without Docker, JDK or Maven: "
    f"{', '.join(service.title for service in SERVICES)}. "
    "Ports and the state folder come from .env (see .env.example).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = make_console()

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help=f"A service, instead of those of the vertical; repeatable: {', '.join(it.name for it in SERVICES)}.",
        metavar="SERVICE",
    ),
]
Vertical = Annotated[str, typer.Option(help="The vertical whose services are needed here.")]


@app.command()
def up(
    only: Only = None,
    vertical: Vertical = "rides",
    timeout: Annotated[float, typer.Option(help="Seconds that each service has to become ready.", min=1)] = READY_S,
) -> None:
    """Start services and wait until they are ready. Safe to repeat; restarts what died."""
    settings = _settings()
    stack = local_stack(settings, console)
    _start(stack, settings, _choose(stack, only, vertical), timeout)


@app.command()
def status() -> None:
    """Show each process that was started. Exit code 0: all are healthy; 1: one is not; 3: nothing runs."""
    settings = _settings()
    stack = local_stack(settings)
    entries = stack.status()
    if not any(entry.state.pid for entry in entries):
        console.print("Not running. Start with: python -m infra.local up")
        orphans = stack.find_orphans()
        if orphans:
            console.print(f"{orphans} processes are left whose parent was killed. Both up and down end them.")
        raise typer.Exit(NOT_RUNNING)
    table = Table("process", "state", "pid", "uptime", "port", "healthy", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        state = entry.state
        table.add_row(
            state.name,
            state.state.lower(),
            str(state.pid or ""),
            supervisor.format_uptime(state) if state.pid else "",
            str(entry.service.port(settings)),
            "[green]yes[/]" if entry.healthy else f"[red]no[/]: {escape(entry.fault or state.state.lower())}",
        )
    console.print(fit_table(console, table))
    if not all(entry.healthy for entry in entries):
        raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop all services. Data stays. Safe when nothing runs."""
    console.print("Stopped." if local_stack(_settings(), console).down() else "Nothing was running.")


@app.command()
def clean(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop all services and delete their data, logs and secrets. The downloaded jars stay."""
    settings = _settings()
    if not yes:
        typer.confirm(f"Delete all data and logs in {settings.datastream_state}?", abort=True)
    # The position of a stream is useless without the topic.
    streams = [settings.datastream_state / vertical.name for vertical in find_verticals()]
    local_stack(settings, console).clean(streams)
    console.print(f"Deleted the services' data in {settings.datastream_state}.")


@app.command()
def doctor(only: Only = None, vertical: Vertical = "rides") -> None:
    """Check whether this machine can run the services, and change nothing."""
    settings = _settings()
    stack = local_stack(settings)
    findings = preflight.check_all(settings, stack.choose(_choose(stack, only, vertical)))
    show(findings, console)
    if not all(finding.fits for finding in findings):
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print the environment of Airflow and its tasks: eval "$(python -m infra.local env)"."""
    for name, value in sorted(airflow_environment(_settings()).items()):
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def superset() -> None:
    """Start Superset and, if it runs on this machine, the warehouse; import the dashboard Sales. Safe to repeat."""
    settings = _settings()
    stack = local_stack(settings, console)
    if warehouse := stack.find_local(SUPERSET.after):
        stack.up(warehouse)
    set_up_superset(settings)
    _start(stack, settings, [SUPERSET.name], READY_S)


@app.command()
def cleanup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete now what is older than *_RETENTION_DAYS in .env; the stack does so once a day."""
    settings = _settings()
    environment = make_base(Paths(settings.datastream_state)) | airflow_environment(settings)
    command = [sys.executable, "-m", "infra.cleanup", *(["--dry-run"] if dry_run else [])]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


@app.command()
def backup() -> None:
    """Back up the warehouse into the folder `backups` of the state folder."""
    _run_on_warehouse("backup.sh", BACKUP)


@app.command()
def restore_drill() -> None:
    """Restore the newest backup into a scratch database and compare it with its manifest."""
    _run_on_warehouse("restore_drill.sh", ADMIN)


@app.command()
def logs(
    process: Annotated[str | None, typer.Argument(help="A process as in `status`; default: all.")] = None,
    lines: Annotated[int, typer.Option("-n", help="Number of lines.", min=1)] = 50,
    follow: Annotated[bool, typer.Option("-f", help="Print lines as they are added.")] = False,
) -> None:
    """Show the end of the services' logs."""
    folder = Paths(_settings().datastream_state).logs
    files = sorted(folder.glob(f"{process}.log" if process else "*.log"))
    if not files:
        console.print(f"No log of {process or 'any service'} in {folder}.")
        raise typer.Exit(1)
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
    os.execvpe(command[0], command, make_environment())  # noqa: S606 (no shell is wanted)


def _run_on_warehouse(script: str, role: str) -> None:
    settings: Any = _settings()
    environment = make_client_environment(settings, role) | {"BACKUP_FOLDER": str(settings.shop_backups)}
    # Replaces this process: the script handles Ctrl-C itself.
    os.execvpe("bash", ["bash", str(BACKUP_SCRIPTS / script)], environment)  # noqa: S606 (no shell is wanted)


def _settings() -> Settings:
    return load(merge_settings())


def _start(stack: Stack, settings: Settings, names: list[str], timeout: float) -> None:
    stack.up(names, timeout)
    lines = [(service.title, f"{service.url(settings)}  {service.login(settings)}") for service in stack.choose(names)]
    print_pairs(console, lines)


def _choose(stack: Stack, only: list[str] | None, vertical: str) -> list[str]:
    return only or stack.find_local(find_vertical(vertical).services)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that `kill` stops what was started, as Ctrl-C does


def main() -> None:
    adopt_proxies()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)


if __name__ == "__main__":
    main()
