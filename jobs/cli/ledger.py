"""The ledger: every message counted at every system."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from jobs.cli.app import AsJson, app, console, error_console, progress_bars, show_in
from jobs.clients import Systems
from jobs.errors import ConfigurationError, DatastreamError
from jobs.kafka.open_transactions import describe_held_back
from jobs.ledger.verdict import Ledger, Verdict
from jobs.settings import load
from jobs.terminal import escape, fit_table, print_error, print_json
from jobs.verticals import find_vertical


@app.command()
def ledger(
    vertical: Annotated[str, typer.Argument(help="The vertical whose messages are counted.")] = "rides",
    as_json: AsJson = False,
) -> None:
    """Count every message at every system. Exit code 0 balanced, 1 lost or doubled, 2 in progress, 3 no verdict.

    JSON: as .local/ledger.json: the figures by name, balanced, faults, lost,
    doubled, held_back.
    """
    # Only the verdict may exit with 1, and an exception would too.
    try:
        exit_code = _ledger(vertical, as_json=as_json)
    except DatastreamError as error:
        print_error(error_console, error)
        exit_code = Verdict.NO_VERDICT
    except Exception:
        error_console.print_exception()
        exit_code = Verdict.NO_VERDICT
    except SystemExit:  # Rich raises it when it writes to a closed pipe
        exit_code = Verdict.NO_VERDICT
    raise typer.Exit(exit_code)


def _ledger(name: str, *, as_json: bool) -> int:
    vertical = find_vertical(name)
    if not vertical.ledger:
        raise ConfigurationError(f"{name} has no ledger.")
    settings = load(vertical.settings)
    with progress_bars() as bars:
        systems = Systems(settings, show_in(bars))
        result: Ledger = pkgutil.resolve_name(vertical.ledger)(systems)
    path = settings.datastream_state / ("ledger.json" if name == "rides" else f"ledger-{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    if as_json:
        print_json(result)
    else:
        print_ledger(console, result, path)
        for line in describe_held_back(systems.config, result.held_back):
            console.print(f"held back by an open transaction: {escape(line)}")
    return result.exit_code


def print_ledger(console: Console, ledger: Ledger, path: Path) -> None:
    """Print a ledger for people."""
    table = Table("ledger", Column(justify="right"), "counted at")
    for figure in ledger.figures:
        table.add_row(figure.name, f"{figure.count:,}", figure.system)
    console.print(fit_table(console, table))
    for note in ledger.notes:
        console.print(escape(note))
    for fault in ledger.faults:
        console.print(f"[red]✗[/] {escape(fault)}")
    verdict = {
        Verdict.BALANCED: "[green]✓ balanced[/]: nothing lost, nothing doubled",
        Verdict.LOST_OR_DOUBLED: "[red]✗ NOT balanced[/]: messages are lost or doubled. Keep the data and report it.",
        Verdict.IN_PROGRESS: "[yellow]… in progress[/]: nothing lost or doubled so far. `make lag` shows what is left.",
        Verdict.NO_VERDICT: "[yellow]? no verdict[/]: the figures cannot be compared.",
    }[ledger.verdict]
    console.print(f"{verdict}  ({path})")
