"""The ledger: every message counted at every system."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from jobs.cli.app import app, console, print_error, progress_bars, show_in
from jobs.clients import Systems
from jobs.errors import ConfigurationError, DatastreamError
from jobs.kafka.open_transactions import describe_held_back
from jobs.ledger.verdict import Ledger, Verdict
from jobs.settings import load
from jobs.verticals import find_vertical


@app.command()
def ledger(
    vertical: Annotated[str, typer.Argument(help="Whose messages to count.")] = "rides",
) -> None:
    """Count every message at every system. Exit code 0 balanced, 1 lost or doubled, 2 on its way, 3 cannot be told."""
    # Nothing but the verdict may end with 1, as an exception would.
    try:
        exit_code = _ledger(vertical)
    except DatastreamError as error:
        print_error(error)
        exit_code = Verdict.CANNOT_BE_TOLD
    except Exception:
        Console(stderr=True).print_exception()
        exit_code = Verdict.CANNOT_BE_TOLD
    except SystemExit:  # Rich ends a write to a closed pipe with it
        exit_code = Verdict.CANNOT_BE_TOLD
    raise typer.Exit(exit_code)


def _ledger(name: str) -> int:
    vertical = find_vertical(name)
    if not vertical.ledger:
        raise ConfigurationError(f"{name} has no ledger.")
    settings = load(vertical.settings)
    with progress_bars() as bars:
        systems = Systems(settings, show_in(bars))
        found: Ledger = pkgutil.resolve_name(vertical.ledger)(systems)
    path = settings.datastream_state / ("ledger.json" if name == "rides" else f"ledger-{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    _print_ledger(found, path)
    for line in describe_held_back(systems.config, found.held_back):
        console.print(f"held back by an open transaction: {escape(line)}", soft_wrap=True)
    return found.exit_code


def _print_ledger(found: Ledger, path: Path) -> None:
    table = Table("ledger", Column(justify="right"), "counted at")
    for figure in found.figures:
        table.add_row(figure.name, f"{figure.count:,}", figure.system)
    console.print(table)
    for note in found.notes:
        console.print(escape(note), soft_wrap=True)
    for fault in found.faults:
        console.print(f"[red]✗[/] {escape(fault)}", soft_wrap=True)
    verdict = {
        0: "[green]✓ balanced[/]: nothing lost, nothing doubled",
        1: "[red]✗ NOT balanced[/]: something is lost or doubled. Please keep the state and report it.",
        2: "[yellow]… on its way[/]: nothing lost or doubled so far. `make lag` shows what is left.",
        3: "[yellow]? cannot be told[/]",
    }[found.exit_code]
    console.print(f"{verdict}  ({path})", soft_wrap=True)
