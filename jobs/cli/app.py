"""What all commands share: the application, the consoles, progress bars, --json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jobs.terminal import make_console

app = typer.Typer(
    help="Look after the stack: topics, lag, ledger, dead letters, one ride's way, the report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Results go to stdout; progress, errors, and the messages of a command with --json to stderr.
console = make_console()
error_console = make_console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, and messages to stderr.")]


def progress_bars() -> Progress:
    """Create progress bars. If stderr is not a terminal, they are printed once, when they end."""
    columns = TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=error_console, redirect_stdout=False)


def show_in(bars: Progress) -> Callable[[str, int, int], None]:
    """Return a function that shows a bar for each name: the number of items done, and of all items."""
    tasks: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name)
        bars.update(tasks[name], completed=done, total=total)

    return show
