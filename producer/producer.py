"""Generates rides and sends them to Kafka's `rides_raw`: `python producer/producer.py --help`."""

from __future__ import annotations

import math
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ride_delivery import Counts, DeliveryError, Sender, Stop
from ride_generator import CITIES, make_rides, now, spread
from ride_messages import Message, mix, read_messages

LINE_EVERY_S = 10.0  # between two progress lines in a log file
REDRAW_EVERY_S = 0.1  # between two updates of the progress bar

EPILOG = """
**Examples**

`producer.py --count 20000 --rate 0 --faulty 0.02 --spread 2h`: two hours of rides at once, 2 % of them invalid

`producer.py --city paris --rate 500 --duration 10m`: ten minutes of rides in Paris

`producer.py --since 2026-01-05T00:00:00Z --spread 1d --count 100000 --seed 7`: the same day at every run

`producer.py --replay rides.jsonl --rate 0`: the lines of a file

**Exit code**

0: every message was delivered (stop an endless run with Ctrl-C) — 1: messages were not delivered, or Kafka did not
answer — 2: invalid options — 130, 143: Ctrl-C or SIGTERM interrupted a limited run; all messages sent were delivered.

A second Ctrl-C stops without waiting for acknowledgements.
"""

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_length(text: str) -> timedelta:
    """Parse a duration: `90s`, `15m`, `2h`, `1.5d`, or a number of seconds without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is not a duration. Examples: 90, 90s, 15m, 2h, 1d")
    try:
        return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is too long") from error


def parse_moment(text: str) -> datetime:
    """Parse an ISO 8601 time with an offset; returns it in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a time. Example: 2026-01-05T00:00:00Z") from error
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no UTC offset. For UTC, use {text}Z")
    return moment.astimezone(UTC)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(epilog=EPILOG)
def main(
    *,
    rate: Annotated[float, typer.Option(min=0, help="Messages per second on average; 0 for no limit.")] = 100,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many messages.")] = None,
    duration: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse_length,
            metavar="TIME",
            help="Stop after this time (60, 90s, 5m, 1h). Without --duration and --count, run until Ctrl-C.",
        ),
    ] = None,
    city: Annotated[Literal["new-york", "paris"], typer.Option(help="City of the rides.")] = "new-york",
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed and options give the same rides and ride_ids. Default: random, printed."),
    ] = None,
    length: Annotated[
        timedelta | None,
        typer.Option(
            "--spread",
            parser=parse_length,
            metavar="TIME",
            help="Spread ts over this time up to now (15m, 2h, 1d), with more rides in busy hours. Needs --count. "
            "Default: ts is the time of sending.",
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_moment, metavar="TS", help="Start of --spread (2026-01-05T00:00:00Z). Makes ts reproducible."
        ),
    ] = None,
    faulty: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of invalid messages; their header datastream.fault has the reason."),
    ] = 0,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of exact repeats of earlier messages.")] = 0,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Send each line of this file unchanged instead of generated rides; - for standard input.",
        ),
    ] = None,
    topic: Annotated[str, typer.Option(envvar="RAW_TOPIC", help="Topic to send to.")] = "rides_raw",
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            envvar="KAFKA_BOOTSTRAP_SERVERS",
            metavar="HOST:PORT[,...]",
            help="Kafka's address. Default: 127.0.0.1, port KAFKA_PORT or 29092.",
        ),
    ] = None,
) -> None:
    """Generate rides and send them to Kafka.

    Rides follow a city's hot spots, hours, traffic and fares. Each ride is one JSON message, keyed by ride_id.
    """
    complaints = {
        "--rate must be a finite number; use 0 for no limit": not math.isfinite(rate),
        "the sum of --faulty and --duplicates must be at most 1": faulty + duplicates > 1,
        "--since is the start of --spread, so it needs --spread": since and not length,
        "--spread needs --count, the number of rides to spread": length and not count,
        "--replay excludes --faulty, --duplicates, --spread and --seed": replay
        and (faulty or duplicates or length or seed is not None),
    }
    for complaint, holds in complaints.items():
        if holds:
            raise typer.BadParameter(complaint)
    if not bootstrap_servers:
        bootstrap_servers = f"127.0.0.1:{os.environ.get('KAFKA_PORT') or 29092}"

    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.signals.append(received))
    seconds = duration.total_seconds() if duration else None
    with _open_source(replay) as source:
        try:
            sender = Sender(bootstrap_servers, topic, stop)
        except DeliveryError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        if source:
            messages = read_messages(source.fileno(), stop.is_asked)
            made_from = f"from {'standard input' if source is sys.stdin.buffer else replay}"
        else:
            if seed is None:
                seed = secrets.randbelow(2**32)
            messages = _make_messages(
                city, seed, faulty=faulty, duplicates=duplicates, since=since, length=length, count=count
            )
            made_from = f"{city}, seed {seed}"
        typer.echo(f"sending to {topic} at {bootstrap_servers} ({made_from})", err=True)
        started = time.monotonic()
        with _show_progress(sender.counts, _estimate_total(rate, count, seconds)) as progress:
            sender.run(messages, rate=rate, count=count, seconds=seconds, progress=progress)
            sender.flush(progress)

    counts = sender.counts
    typer.echo(format_summary(counts, time.monotonic() - started, seed))
    if counts.failed:
        typer.echo(f"error: {counts.failed} of {counts.sent} messages not delivered: {counts.first_error}", err=True)
        raise typer.Exit(1)
    if stop.signals and (count or seconds or replay):
        raise typer.Exit(128 + stop.signals[0])


def format_summary(counts: Counts, seconds: float, seed: int | None) -> str:
    """The last line of the output: how many messages were sent, and how many of them were delivered."""
    return (
        f"sent {counts.sent} (faulty {counts.faulty}, duplicates {counts.duplicates}), delivered {counts.delivered}, "
        f"failed {counts.failed}, {seconds:.1f} s, {counts.sent / seconds:.0f} messages/s"
        + ("" if seed is None else f", seed {seed}")
    )


def _make_messages(
    city_name: str,
    seed: int,
    *,
    faulty: float,
    duplicates: float,
    since: datetime | None,
    length: timedelta | None,
    count: int | None,
) -> Iterator[Message]:
    city = CITIES[city_name]
    clock = spread(since or now() - length, length, count, city, seed) if length and count else now
    return mix(make_rides(city, seed, clock, fixed_start=since is not None), seed, faulty, duplicates)


def _open_source(replay: Path | None) -> nullcontext[BinaryIO | None] | closing[BinaryIO]:
    if replay is None:
        return nullcontext(None)
    if str(replay) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return closing(replay.open("rb"))
    except OSError as error:
        raise typer.BadParameter(f"--replay: {replay}: {error.strerror}") from error


def _estimate_total(rate: float, count: int | None, seconds: float | None) -> int | None:
    """The number of messages to send; None if unlimited."""
    by_time = round(rate * seconds) if rate and seconds else None
    return min((n for n in (count, by_time) if n), default=None)


@contextmanager
def _show_progress(counts: Counts, total: int | None) -> Iterator[Callable[[], None]]:
    """Show progress on standard error: a bar on a terminal, otherwise a line every LINE_EVERY_S seconds."""
    started = shown = time.monotonic()
    console = Console(stderr=True)

    def rate() -> str:
        return f"{counts.sent / max(time.monotonic() - started, 1e-3):,.0f}/s"

    if not console.is_terminal:

        def line() -> None:
            nonlocal shown
            if time.monotonic() - shown >= LINE_EVERY_S:
                shown = time.monotonic()
                total_text = f" of {total}" if total else ""
                typer.echo(f"sent {counts.sent}{total_text}, delivered {counts.delivered}, {rate()}", err=True)

        yield line
        return

    columns = (
        TextColumn("rides"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        *((TimeRemainingColumn(),) if total else ()),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("rides", total=total, rate="")

        def draw() -> None:
            nonlocal shown
            if time.monotonic() - shown >= REDRAW_EVERY_S:
                shown = time.monotonic()
                bar.update(task, completed=counts.sent, rate=rate())

        yield draw
        bar.update(task, completed=counts.sent, rate=rate())


if __name__ == "__main__":
    app()
