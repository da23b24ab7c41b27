"""Dead letters: the latest ones, and sending them back."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from jobs.cli.app import app, console
from jobs.clients import make_kafka_config
from jobs.errors import ConfigurationError
from jobs.kafka.dead_letter import count_replays, read_error, read_headers
from jobs.kafka.open_transactions import describe_held_back
from jobs.settings import Settings, load
from jobs.vertical import DeadLetters
from jobs.verticals import find_vertical

VerticalName = Annotated[str, typer.Argument(metavar="[VERTICAL]", help="Whose dead letters.")]


def _dead_letters(name: str) -> tuple[Settings, DeadLetters]:
    vertical = find_vertical(name)
    if vertical.dead_letters is None:
        raise ConfigurationError(f"{name} has no dead letters.")
    return load(vertical.settings), vertical.dead_letters


@app.command()
def dlq(vertical: VerticalName = "rides", count: Annotated[int, typer.Option(help="How many.", min=1)] = 20) -> None:
    """Show the latest dead letters and why they are there."""
    from jobs.kafka.replay import read_latest

    settings, declared = _dead_letters(vertical)
    topic = getattr(settings, declared.topic)
    table = Table("source", "reason", "message", "value", "replayed")
    for message in read_latest(make_kafka_config(settings), topic, count):
        headers = read_headers(message)
        source = "{}[{}]@{}".format(*(read_error(headers, name) for name in ("topic", "partition", "offset")))
        value = repr(message.value())[1:] if message.value() is not None else "null"
        table.add_row(
            source,
            read_error(headers, "exception.class.name"),
            escape(read_error(headers, "exception.message")),
            escape(value if len(value) <= 60 else f"{value[:59]}…"),
            str(count_replays(headers) or ""),
        )
    console.print(table if table.row_count else f"{topic} is empty.")


@app.command("dlq-replay")
def dlq_replay(
    vertical: VerticalName = "rides",
    max_replays: Annotated[int, typer.Option(help="Leave alone what was sent back so often already.", min=1)] = 1,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
) -> None:
    """Send dead letters back to their source topic, each once."""
    from jobs.kafka.replay import count_replayable, replay

    settings, declared = _dead_letters(vertical)
    config, topic, sources = (
        make_kafka_config(settings),
        getattr(settings, declared.topic),
        declared.resolve_sources(settings),
    )
    work = count_replayable if dry_run else replay
    done = work(config, topic, declared.replay_group, sources, max_replays)
    verb = "would go" if dry_run else "went"
    for source, count in done.sent.items():
        console.print(f"{count:,} dead letters {verb} back to {source}")
    console.print(f"{done.sent.total():,} in all; {done.left:,} left alone, sent back {max_replays}× or more already")
    if done.foreign:
        console.print(f"{done.foreign:,} more were written by others: left alone, too")
    for line in describe_held_back(config, done.held):
        console.print(f"held back by an open transaction: {escape(line)}", soft_wrap=True)
