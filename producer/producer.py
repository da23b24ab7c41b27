"""Makes rides and sends them to Kafka's `rides_raw`: `python producer/producer.py --help`."""

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
from ride_messages import Message, mixed, replayed

LINE_EVERY_S = 10.0  # progress in a log file
REDRAW_EVERY_S = 0.1  # and on a terminal

EPILOG = """
**Examples**

`producer.py --count 20000 --rate 0 --faulty 0.02 --spread 2h`: two hours of rides at once, one in fifty of them bad

`producer.py --city paris --rate 500 --duration 10m`: ten minutes of Paris

`producer.py --since 2026-01-05T00:00:00Z --spread 1d --count 100000 --seed 7`: always the very same day

`producer.py --replay rides.jsonl --rate 0`: the lines of a file, as they are

**Exit code**

0: every message sent was delivered (an endless run ends with Ctrl-C) — 1: some were not, or nothing could be sent —
2: wrong options — 130, 143: Ctrl-C or SIGTERM cut a run with an end short; what it had sent was delivered.

A second Ctrl-C gives up the waiting for acknowledgements.
"""

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_length(text: str) -> timedelta:
    """`90`, `90s`, `15m`, `2h`, `1.5d`: a length of time, in seconds without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is not a length of time such as 90, 90s, 15m, 2h or 1d")
    try:
        return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is too long") from error


def parse_moment(text: str) -> datetime:
    """An ISO 8601 time with an offset, in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-01-05T00:00:00Z") from error
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no offset; write {text}Z for UTC")
    return moment.astimezone(UTC)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(epilog=EPILOG)
def main(
    *,
    rate: Annotated[float, typer.Option(min=0, help="Messages per second on average; 0: as fast as it goes.")] = 100,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many messages.")] = None,
    duration: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse_length,
            metavar="TIME",
            help="Stop after so long (60, 90s, 5m, 1h). Without this and --count: until Ctrl-C.",
        ),
    ] = None,
    city: Annotated[Literal["new-york", "paris"], typer.Option(help="Where the rides are.")] = "new-york",
    seed: Annotated[
        int | None, typer.Option(help="Same seed and options: same rides, same ride_ids. Default: a new one, printed.")
    ] = None,
    length: Annotated[
        timedelta | None,
        typer.Option(
            "--spread",
            parser=parse_length,
            metavar="TIME",
            help="Spread the rides' ts over the past so long (15m, 2h, 1d), denser in busy hours. Needs --count. "
            "Default: ts is the moment of sending.",
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_moment, metavar="TS", help="Start of --spread (2026-01-05T00:00:00Z), so that ts is fixed too."
        ),
    ] = None,
    faulty: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of messages that break the contract; header datastream.fault says how."),
    ] = 0,
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Share of messages that repeat an earlier one byte for byte.")
    ] = 0,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Send each line of this file as it is instead of making rides; - is the standard input.",
        ),
    ] = None,
    topic: Annotated[str, typer.Option(envvar="RAW_TOPIC", help="Where to.")] = "rides_raw",
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            envvar="KAFKA_BOOTSTRAP_SERVERS",
            metavar="HOST:PORT[,...]",
            help="Kafka's address. Default: 127.0.0.1 with the port in KAFKA_PORT, or 29092.",
        ),
    ] = None,
) -> None:
    """Make rides and send them to Kafka.

    Rides follow a city's hot spots, hours, traffic and fares; they are JSON, one message each, keyed by ride_id.
    """
    complaints = {
        "--rate is a number; 0 is as fast as it goes": not math.isfinite(rate),
        "--faulty and --duplicates together are more than 1": faulty + duplicates > 1,
        "--since is where --spread starts; give --spread too": since and not length,
        "--spread needs --count: how many rides to spread": length and not count,
        "--replay goes without --faulty, --duplicates, --spread and --seed": replay
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
    with _opened(replay) as source:
        try:
            sender = Sender(bootstrap_servers, topic, stop)
        except DeliveryError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        if source:
            messages = replayed(source.fileno(), stop.asked)
            made_from = f"from {'the standard input' if source is sys.stdin.buffer else replay}"
        else:
            if seed is None:
                seed = secrets.randbelow(2**32)
            messages = _made(city, seed, faulty=faulty, duplicates=duplicates, since=since, length=length, count=count)
            made_from = f"{city}, seed {seed}"
        typer.echo(f"sending to {topic} at {bootstrap_servers} ({made_from})", err=True)
        started = time.monotonic()
        with _progress(sender.counts, _expected(rate, count, seconds)) as progress:
            sender.run(messages, rate=rate, count=count, seconds=seconds, progress=progress)
            sender.flush(progress)

    counts = sender.counts
    typer.echo(summary(counts, time.monotonic() - started, seed))
    if counts.failed:
        typer.echo(f"error: {counts.failed} of {counts.sent} messages not delivered: {counts.first_error}", err=True)
        raise typer.Exit(1)
    if stop.signals and (count or seconds or replay):
        raise typer.Exit(128 + stop.signals[0])


def summary(counts: Counts, seconds: float, seed: int | None) -> str:
    """The last line: what was sent and what became of it."""
    return (
        f"sent {counts.sent} (faulty {counts.faulty}, duplicates {counts.duplicates}), delivered {counts.delivered}, "
        f"failed {counts.failed}, {seconds:.1f} s, {counts.sent / seconds:.0f} messages/s"
        + ("" if seed is None else f", seed {seed}")
    )


def _made(
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
    return mixed(make_rides(city, seed, clock, fixed_start=since is not None), seed, faulty, duplicates)


def _opened(replay: Path | None) -> nullcontext[BinaryIO | None] | closing[BinaryIO]:
    if replay is None:
        return nullcontext(None)
    if str(replay) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return closing(replay.open("rb"))
    except OSError as error:
        raise typer.BadParameter(f"--replay: {replay}: {error.strerror}") from error


def _expected(rate: float, count: int | None, seconds: float | None) -> int | None:
    """How many messages there will be, as far as that is known."""
    by_time = round(rate * seconds) if rate and seconds else None
    return min((n for n in (count, by_time) if n), default=None)


@contextmanager
def _progress(counts: Counts, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; elsewhere a plain line every LINE_EVERY_S. Both on the standard error."""
    started = shown = time.monotonic()
    console = Console(stderr=True)

    def rate() -> str:
        return f"{counts.sent / max(time.monotonic() - started, 1e-3):,.0f}/s"

    if not console.is_terminal:

        def line() -> None:
            nonlocal shown
            if time.monotonic() - shown >= LINE_EVERY_S:
                shown = time.monotonic()
                of_total = f" of {total}" if total else ""
                typer.echo(f"sent {counts.sent}{of_total}, delivered {counts.delivered}, {rate()}", err=True)

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
