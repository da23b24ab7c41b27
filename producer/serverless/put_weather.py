"""Puts the weather at airports into a stream of Kinesis: `python put_weather.py --help`."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import time
from contextlib import closing, nullcontext
from enum import StrEnum
from typing import Annotated, Any

import typer

from kinesis_records import FAULTS, LATE, OBSERVATION, REPEAT, Mixer, Record, make_record
from kinesis_sender import BATCH_RECORDS, PutError, Sender
from weather_observation import Airport, read_airports
from weather_sources import Batches, Lines, OpenWeather, Source, SourceError, WeatherGenerator

log = logging.getLogger("put_weather")

STREAM = "weather_stream"
PLACES = "DSS,ABJ,CMN,CDG,LHR,JFK,BOS,SIN"
LINE_EVERY_S = 10.0  # between two lines of progress


class From(StrEnum):
    """Where the observations are from."""

    OPENWEATHER = "openweather"
    GENERATOR = "generator"
    STDIN = "-"


class Run:
    """Puts observations at a rate, until they end, enough records are put, or a stop is requested."""

    def __init__(
        self,
        sender: Sender,
        mixer: Mixer,
        airports: dict[str, Airport],
        *,
        rate: float,
        count: int | None,
        stopped: threading.Event,
    ) -> None:
        self._sender, self._mixer, self._airports = sender, mixer, airports
        self._rate, self._count, self._stopped = rate, count, stopped
        self._taken = 0
        self._started = self._logged = time.monotonic()

    def put_all(self, batches: Batches) -> None:
        """
        Raises:
            SourceError: the source failed. What it gave before is put.
            PutError: not all were put.
        """
        failure = None
        has_bar = self._count is not None and sys.stderr.isatty()
        bar: Any = typer.progressbar(length=self._count, label="records", file=sys.stderr) if has_bar else None
        with closing(batches), bar or nullcontext():
            try:
                while self._find_room() > 0 and (observations := next(batches, None)) is not None:
                    records = [make_record(observation, self._airports) for observation in observations]
                    self._put([mixed for record in records for mixed in self._mixer.mix(record)], bar)
            except SourceError as error:
                failure = error
            self._put(self._mixer.release(), bar)
        if failure is not None:
            raise failure

    def _find_room(self) -> int:
        """How many records may still be put besides those that are held back."""
        if self._count is None:
            return sys.maxsize
        return max(0, self._count - self._taken - len(self._mixer.held))

    def _put(self, records: list[Record], bar: Any) -> None:
        """The k-th record is due k / rate seconds after the start. After a stop request, all are due."""
        records = records[: self._find_room()]
        size = max(1, min(BATCH_RECORDS, round(self._rate))) if self._rate else BATCH_RECORDS
        for start in range(0, len(records), size):
            if self._rate:
                self._stopped.wait(self._started + self._taken / self._rate - time.monotonic())
            part = records[start : start + size]
            try:
                self._sender.put(part)
            except PutError as error:
                rest = len(records) - start - len(part) + len(self._mixer.held)
                raise PutError(f"{error} {rest} more were read and not tried." if rest else str(error)) from error
            self._taken += len(part)
            if bar is not None:
                bar.update(len(part))
            elif time.monotonic() >= self._logged + LINE_EVERY_S:
                self._logged = time.monotonic()
                log.info("put %d records", self._sender.count)


def describe_totals(sender: Sender, source: Source) -> str:
    """One line with what was put, by kind, and what was not."""
    kinds = sender.put_by_kind
    faulty = {label: kinds[label] for label in FAULTS if kinds[label]}
    text = (
        f"put {sender.count} records: {kinds[OBSERVATION] + kinds[LATE]} observations ({kinds[LATE]} late), "
        f"{kinds[REPEAT]} repeats, {sum(faulty.values())} faulty"
    )
    if faulty:
        text += f" ({', '.join(f'{label} {count}' for label, count in faulty.items())})"
    return f"{text}; dropped {sender.too_large} too large, rejected {source.rejected} inputs"


def default_endpoint() -> str:
    """The URL of the emulator; empty for AWS."""
    if (os.environ.get("SERVERLESS_EMULATOR") or os.environ.get("AWS_EMULATOR")) == "none":
        return ""
    url = os.environ.get("SERVERLESS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
    return url or f"http://127.0.0.1:{os.environ.get('SERVERLESS_PORT') or 4566}"


def default_source() -> From:
    names = ("FLIGHTS_OPENWEATHER_KEY", "FLIGHTS_APIS_URL", "FLIGHTS_APIS_PORT")
    return From.OPENWEATHER if any(map(os.environ.get, names)) else From.GENERATOR


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    source: Annotated[
        From,
        typer.Option(
            "--from",
            default_factory=default_source,
            show_default="openweather with a key or FLIGHTS_APIS_URL, else generator",
            help="Source: OpenWeather, generated weather, or JSON lines from standard input (-).",
        ),
    ],
    rate: Annotated[float, typer.Option(min=0, help="Records per second; 0: no limit.")] = 10,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many; default: run until Ctrl-C.")] = None,
    history: Annotated[
        float | None,
        typer.Option(min=0, metavar="HOURS", help="Spread the --count generated observations over these hours."),
    ] = None,
    faulty: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of faulty records, of each kind in turn. other_unicode_form is valid: the same city.",
        ),
    ] = 0,
    duplicates: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="Share of repeats and of late records, which come after a newer one, half each."
        ),
    ] = 0,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same weather. Default: random.")] = None,
    endpoint_url: Annotated[
        str,
        typer.Option(
            default_factory=default_endpoint,
            show_default="AWS_ENDPOINT_URL, or http://127.0.0.1:4566; empty with AWS_EMULATOR=none",
            help="URL of an emulator of AWS; empty: AWS itself, with the login of this machine.",
        ),
    ],
    region: Annotated[
        str, typer.Option(envvar=["SERVERLESS_REGION", "AWS_DEFAULT_REGION"], help="Region of AWS.")
    ] = "us-east-1",
    stream: Annotated[str, typer.Option(help="Stream to put into.")] = STREAM,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to keep trying to put a batch.")] = 30,
) -> None:
    """Put observations of the weather into the stream, each as one JSON record with its city as partition key.

    FLIGHTS_OPENWEATHER_KEY has the key of OpenWeather, FLIGHTS_PLACES the airports. Each place is read every ten
    minutes.

    Exit code 0: every record was put; 1: not, or the source failed. Ctrl-C puts what is read, then stops.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("httpx", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if faulty + duplicates > 0.9:
        raise typer.BadParameter("with --duplicates, more than 0.9", param_hint="--faulty")
    if history is not None and (count is None or source is not From.GENERATOR):
        raise typer.BadParameter("needs --count and --from generator", param_hint="--history")
    seed = secrets.randbelow(2**32) if seed is None else seed
    airports, stopped = read_airports(), threading.Event()

    def stop(*_: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    reader: Source = Source(airports, stopped)
    sender = Sender(stream, endpoint_url or None, region, timeout)
    try:
        if source is From.OPENWEATHER:
            reader = OpenWeather(
                airports,
                stopped,
                os.environ.get("FLIGHTS_PLACES") or PLACES,
                os.environ.get("FLIGHTS_OPENWEATHER_KEY", ""),
                os.environ.get("FLIGHTS_APIS_URL") or f"http://127.0.0.1:{os.environ.get('FLIGHTS_APIS_PORT') or 8091}",
            )
            batches = reader.fetch()
        elif source is From.GENERATOR:
            reader = WeatherGenerator(airports, stopped)
            # Repeats and faulty records are added to the observations.
            options = [f"--seed={seed}", f"--rate={rate * (1 - faulty - duplicates / 2)}"]
            options += [f"--count={count}"] if count else []
            options += [f"--history={history}"] if history is not None else []
            batches = reader.generate(options)
        else:
            reader = Lines(airports, stopped)
            batches = reader.read(sys.stdin.fileno(), "stdin")
        log.info("putting into %s at %s from %s", stream, endpoint_url or f"AWS, {region}", source)
        run = Run(sender, Mixer(seed, faulty, duplicates), airports, rate=rate, count=count, stopped=stopped)
        run.put_all(batches)
    except (PutError, SourceError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo(f"error: {sender.describe('because of a second Ctrl-C')}", err=True)
        sys.exit(1)
    finally:
        typer.echo(describe_totals(sender, reader))


if __name__ == "__main__":
    app()
