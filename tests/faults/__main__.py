"""The command line of the fault campaign: `make test-faults`, `python -m tests.faults --help`."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import describe_machine
from jobs.errors import DatastreamError
from jobs.settings import Settings, load
from jobs.vertical import Engine
from tests.faults.campaign import Campaign, Round
from tests.faults.environment import prepared
from tests.faults.faults import TARGETS, Target
from tests.faults.report import markdown, summaries, table, was_at_work

console = Console()
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    rounds: Annotated[int, typer.Option(help="How many rounds; each strikes every target once.", min=1)] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of the first round; the next ones have the next. Default: any.")
    ] = None,
    targets: Annotated[
        str, typer.Option(help=f"Some of: {', '.join(TARGETS)}. Separated by commas; all of the engine's if empty.")
    ] = "",
    engine: Annotated[Engine, typer.Option(help="The COMPUTE_ENGINE of dag_compute_cost.")] = "python",
) -> None:
    """Start a separate stack, inject faults while rides flow, compare id by id; exit code 1 if anything differs.

    Each round is kept in .local/faults/<engine>/<seed>.json; the table counts all that are there.
    """
    known = {name: target for name, target in TARGETS.items() if engine in target.engines}
    unknown = [name for name in targets.split(",") if name and name not in known]
    if unknown:
        raise typer.BadParameter(f"no target of {engine} is called {', '.join(unknown)}: there are {', '.join(known)}")
    chosen = [known[name] for name in targets.split(",") if name] or list(known.values())
    seeds = range(first := secrets.randbelow(10**6) if seed is None else seed, first + rounds)
    folder = load(Settings).datastream_state / "faults" / engine
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _play(seeds, chosen, engine, folder)
    except (AssertionError, DatastreamError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
    played = [msgspec.json.decode(file.read_bytes(), type=Round) for file in sorted(folder.glob("[0-9]*.json"))]
    summary = {"machine": describe_machine(), "rounds": [each.seed for each in played], "targets": summaries(played)}
    (folder / "campaign.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")
    (folder / "table.md").write_text(markdown(played))
    console.print(table(played))
    console.print(f"Wrote {folder / 'table.md'}", soft_wrap=True)


def _play(seeds: Sequence[int], targets: Sequence[Target], engine: Engine, folder: Path) -> None:
    """Play the rounds on one stack, and write each one's file.

    Raises:
        AssertionError: something differs, or a fault could not be struck or was not got over.
    """
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("faults", total=len(seeds) * len(targets))

        def tell(what: str, done: int = 0) -> None:
            console.print(f"{time.monotonic() - began:6.0f} s  {escape(what)}", soft_wrap=True, highlight=False)
            bar.advance(task, done)

        with prepared(seeds[0], engine, console) as environment:
            campaign = Campaign(environment, tell)
            for seed in seeds:
                names = ",".join(target.name for target in targets)
                try:
                    played = campaign.play(seed, targets)
                    file = folder / f"{seed}.json"
                    file.write_bytes(msgspec.json.format(msgspec.json.encode(played), indent=1) + b"\n")
                    _tell_round(played)
                    assert not played.differences, f"{len(played.differences)} differences; all are in {file}"
                    missed = [hit.what for hit in played.hits if hit.target != "none" and not was_at_work(hit)]
                    assert not missed, f"no task was at work at {', '.join(missed)}: {file} has what was seen"
                except BaseException:
                    again = f"Again: make test-faults ROUNDS=1 SEED={seed} COMPUTE_ENGINE={engine} TARGETS={names}"
                    console.print(again, soft_wrap=True)
                    raise


def _tell_round(played: Round) -> None:
    console.print(
        f"round {played.seed}: {len(played.hits)} faults, {played.sent:,} messages sent, {played.good:,} good and "
        f"{played.bad:,} bad; {played.results:,} results, {played.dead_letters:,} dead letters, {played.documents:,} "
        f"documents, {played.rows:,} rows; {played.seconds:.0f} s",
        soft_wrap=True,
    )
    for difference in played.differences[:20]:
        console.print(f"[red]✗[/] {escape(difference)}", soft_wrap=True)
    if not played.differences:
        console.print("[green]✓[/] nothing lost, nothing doubled")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that `kill` stops the stack, as Ctrl-C does


if __name__ == "__main__":
    app()
