"""What all commands share: the application, the console, progress bars, and how errors are shown."""

from __future__ import annotations

from collections.abc import Callable

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jobs.errors import DatastreamError

app = typer.Typer(
    help="Look after the stack: topics, lag, ledger, dead letters, one ride's way, the report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()


def progress_bars() -> Progress:
    columns = TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def show_in(bars: Progress) -> Callable[[str, int, int], None]:
    """Shows a bar for each name that it is called with: how much is done, and how much there is."""
    tasks: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name)
        bars.update(tasks[name], completed=done, total=total)

    return show


def print_error(error: DatastreamError) -> None:
    Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
