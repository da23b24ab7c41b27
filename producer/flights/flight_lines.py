"""What both generators share: times, faults, repeats, and JSON lines on standard output at a rate."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from flight_weather import AIRPORTS, Airport, read_airports

REMEMBERED = 1000  # observations from which repeated ones are drawn

Content = dict[str, Any]
Fault = Callable[[Content], bytes]


class Line(NamedTuple):
    """A line without its line break, and for a faulty one the reason by the project's name."""

    value: bytes
    fault: str | None = None


@dataclass(frozen=True)
class Options:
    """The options of both generators."""

    count: int | None
    rate: float
    seed: int
    faulty: float
    duplicates: float
    start: datetime
    step: timedelta

    def list_times(self) -> Iterator[datetime]:
        """The time of each observation."""
        moment = self.start
        while True:
            yield moment
            moment += self.step


Count = Annotated[int | None, typer.Option(min=1, help="Stop after this many lines; default: run until Ctrl-C.")]
Rate = Annotated[float, typer.Option(min=0, help="Lines per second; 0: no limit.")]
Seed = Annotated[int | None, typer.Option(help="The same seed and start give the same lines. Default: random.")]
Faulty = Annotated[float, typer.Option(min=0, max=1, help="Share of faulty ones, of each kind in turn.")]
Duplicates = Annotated[float, typer.Option(min=0, max=1, help="Share of exact repeats of earlier ones.")]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Time of the first observation, RFC 3339. Default: now, or with --history that much ago."
    ),
]
History = Annotated[
    float | None, typer.Option(min=0, metavar="HOURS", help="Spread the --count observations over these hours.")
]
AirportsFile = Annotated[
    Path, typer.Option("--airports", exists=True, dir_okay=False, help="CSV file of the airports.")
]


def make_options(
    *,
    count: int | None,
    rate: float,
    seed: int | None,
    faulty: float,
    duplicates: float,
    start: str | None,
    history: float | None,
) -> Options:
    """
    Raises:
        typer.BadParameter: the options do not go together.
    """
    if history is not None and count is None:
        raise typer.BadParameter("needs --count", param_hint="--history")
    try:
        first = datetime.now(UTC) - timedelta(hours=history or 0) if start is None else datetime.fromisoformat(start)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--start") from error
    if first.tzinfo is None:
        raise typer.BadParameter("needs an offset, for example 2026-01-05T08:00:00Z", param_hint="--start")
    if history is not None and count is not None:
        step = timedelta(hours=history) / count
    else:
        step = timedelta(seconds=1 / rate) if rate else timedelta(milliseconds=1)
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    return Options(count, rate, seed, faulty, duplicates, first, step)


def add_faults(contents: Iterator[Content], faults: Mapping[str, Fault], options: Options) -> Iterator[Line]:
    """The observations as lines. A share `faulty` has a fault, and a share `duplicates` repeats earlier ones.

    Args:
        faults: for each reason, what makes a faulty line of a good observation, which is not printed then. The part
            after a slash only tells apart several faults with the same reason.
    """
    rng = random.Random(f"{options.seed}/faults")
    labels = _draw_labels(rng, list(faults))
    remembered: list[bytes] = []
    for content in contents:
        chance = rng.random()
        if remembered and chance < options.duplicates:
            yield Line(rng.choice(remembered))
        elif chance > 1 - options.faulty:
            label = next(labels)
            yield Line(faults[label](content), label.partition("/")[0])
        else:
            value = encode(content)
            if len(remembered) == REMEMBERED:
                remembered.pop(rng.randrange(REMEMBERED))
            remembered.append(value)
            yield Line(value)


def _draw_labels(rng: random.Random, labels: list[str]) -> Iterator[str]:
    """Endless labels: each round has every label once, in random order."""
    while True:
        yield from rng.sample(labels, len(labels))


def encode(content: Content) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def change(**fields: object) -> Fault:
    """A fault that sets fields."""
    return lambda content: encode(content | fields)


def omit(name: str) -> Fault:
    """A fault that leaves out a field."""
    return lambda content: encode({key: value for key, value in content.items() if key != name})


JSON_FAULTS: dict[str, Fault] = {
    "empty_value": lambda _: b"",
    "invalid_utf8": lambda content: encode(content)[:-1] + b', "note": "\xe9"}',
    "byte_order_mark": lambda content: b"\xef\xbb\xbf" + encode(content),
    "invalid_json": lambda content: encode(content)[:-1],
    "invalid_json/html": lambda _: b"<!doctype html><title>502 Bad Gateway</title>",
    "duplicate_key": lambda content: encode(content)[:-1] + b', "observed_at": "2026-01-05T08:00:00Z"}',
    "not_an_object": lambda content: b"[" + encode(content) + b"]",
    "unknown_field": change(comment="seen from the tower"),
    "missing_field": omit("observed_at"),
    "invalid_timestamp/offset": lambda content: encode(
        content | {"observed_at": content["observed_at"].removesuffix("Z")}
    ),
    "invalid_timestamp/day": change(observed_at="2026-02-30T08:00:00Z"),
}


def write_lines(lines: Iterator[Line], options: Options) -> None:
    """Print lines, the k-th one k / rate seconds after the start. A closed pipe or Ctrl-C ends it."""
    started = time.monotonic()
    out = sys.stdout.buffer
    try:
        with suppress(KeyboardInterrupt):
            for number, line in enumerate(islice(lines, options.count)):
                if options.rate:
                    time.sleep(max(0, started + number / options.rate - time.monotonic()))
                out.write(line.value + b"\n")
                if options.rate:
                    out.flush()
        out.flush()
    except BrokenPipeError:
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_app(
    draw: Callable[[Sequence[Airport], Options], Iterator[Content]], faults: Mapping[str, Fault], text: str
) -> typer.Typer:
    """The command line of a generator.

    Args:
        draw: makes endless observations.
        faults: as of `add_faults`.
        text: for --help.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=text)
    def main(
        *,
        count: Count = None,
        rate: Rate = 10,
        seed: Seed = None,
        faulty: Faulty = 0,
        duplicates: Duplicates = 0,
        start: Start = None,
        history: History = None,
        airports: AirportsFile = AIRPORTS,
    ) -> None:
        options = make_options(
            count=count, rate=rate, seed=seed, faulty=faulty, duplicates=duplicates, start=start, history=history
        )
        write_lines(add_faults(draw(read_airports(airports), options), faults, options), options)

    return app
