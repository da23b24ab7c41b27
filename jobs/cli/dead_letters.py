"""Dead letters: the latest ones, and sending them back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from confluent_kafka import Message
from rich.console import Console

from jobs.cli.app import AsJson, app, console
from jobs.clients import make_kafka_config
from jobs.errors import ConfigurationError
from jobs.kafka.dead_letter import count_replays, read_error, read_headers, read_position
from jobs.kafka.open_transactions import describe_held_back
from jobs.settings import Settings, load
from jobs.terminal import encode_value, escape, print_json, show_value
from jobs.vertical import DeadLetters
from jobs.verticals import find_vertical

VerticalName = Annotated[str, typer.Argument(metavar="[VERTICAL]", help="The vertical of the dead letters.")]


def _load_dead_letters(name: str) -> tuple[Settings, DeadLetters]:
    vertical = find_vertical(name)
    if vertical.dead_letters is None:
        raise ConfigurationError(f"{name} has no dead letters.")
    return load(vertical.settings), vertical.dead_letters


@app.command()
def dlq(
    vertical: VerticalName = "rides",
    count: Annotated[int, typer.Option(help="How many.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the latest dead letters and the reason for each, newest first.

    JSON: topic; dead_letters: partition, offset, timestamp_ms, source, reason,
    message, replayed, key, value, headers. Bytes: text, or {"base64": …}.
    """
    from jobs.kafka.replay import read_latest

    settings, declared = _load_dead_letters(vertical)
    topic = getattr(settings, declared.topic)
    messages = read_latest(make_kafka_config(settings), topic, count)
    if as_json:
        print_json({"topic": topic, "dead_letters": [describe_dead_letter(message) for message in messages]})
    elif messages:
        print_dead_letters(console, messages)
    else:
        console.print(f"{topic} is empty.")


def describe_dead_letter(message: Message) -> dict[str, Any]:
    """Describe a dead letter for `print_json`."""
    headers = read_headers(message)
    partition, offset = read_position(headers) or (None, None)
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
        "source": {"topic": read_error(headers, "topic"), "partition": partition, "offset": offset},
        "reason": read_error(headers, "exception.class.name"),
        "message": read_error(headers, "exception.message"),
        "replayed": count_replays(headers),
        "key": encode_value(message.key()),
        "value": encode_value(message.value()),
        "headers": [(name, encode_value(value)) for name, value in headers or []],
    }


def print_dead_letters(console: Console, messages: Iterable[Message]) -> None:
    """Print three lines for each dead letter: source and reason, error message, value."""
    for message in messages:
        headers = read_headers(message)
        source = "{}[{}]@{}".format(*(read_error(headers, name) for name in ("topic", "partition", "offset")))
        replays = f"  replayed {times}×" if (times := count_replays(headers)) else ""
        console.print(f"{escape(source)}  [bold]{escape(read_error(headers, 'exception.class.name'))}[/]{replays}")
        console.print(f"  message: {escape(read_error(headers, 'exception.message'))}")
        console.print(f"  value: {show_value(message.value())}")


@app.command("dlq-replay")
def dlq_replay(
    vertical: VerticalName = "rides",
    max_replays: Annotated[int, typer.Option(help="Skip dead letters that were sent back this often.", min=1)] = 1,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
) -> None:
    """Send dead letters back to their source topic, each once."""
    from jobs.kafka.replay import count_replayable, replay

    settings, declared = _load_dead_letters(vertical)
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
    console.print(f"{done.sent.total():,} in all; {done.left:,} skipped, already sent back {max_replays}× or more")
    if done.foreign:
        console.print(f"{done.foreign:,} skipped, written by another client")
    for line in describe_held_back(config, done.held):
        console.print(f"held back by an open transaction: {escape(line)}")
