"""Generates a shop's transactions and its application log: `python generator.py --help`."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shop_logs import ApplicationLog
from shop_postgres import PostgresTarget, TargetError
from shop_transactions import Item, add_faults, draw_history, draw_live

if TYPE_CHECKING:
    from shop_kafka import KafkaTarget

log = logging.getLogger("shop_generator")

LINE_EVERY_S = 10.0  # between two lines of progress
LONGEST_PAUSE_S = 0.2  # so that a stop request takes effect soon
BATCH = 10_000  # rows in one transaction of PostgreSQL
HISTORY_SEED = 1


class To(StrEnum):
    """Where the transactions go."""

    POSTGRES = "postgres"
    KAFKA = "kafka"


class Run:
    """Sends transactions at a rate until they end or a stop is requested."""

    def __init__(self) -> None:
        self.sent = 0
        self.is_stopped = False

    def stop(self, *_: object) -> None:
        self.is_stopped = True

    def wait(self, deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0 and not self.is_stopped:
            time.sleep(min(left, LONGEST_PAUSE_S))

    def send_live(
        self, target: PostgresTarget | KafkaTarget, items: Iterator[Item], rate: float, app_log: ApplicationLog | None
    ) -> None:
        """Send each second what is due: the k-th item k / rate seconds after the start. Rate 0: no limit."""
        started = logged = time.monotonic()
        size = max(1, min(BATCH, round(rate))) if rate else BATCH
        while not self.is_stopped:
            if rate:
                self.wait(started + self.sent / rate)
            if self.is_stopped or not (batch := list(islice(items, size))):
                break
            target.send(batch)
            self.sent += len(batch)
            if app_log is not None:
                for _ in batch:
                    app_log.write()
            if time.monotonic() >= logged + LINE_EVERY_S:
                logged = time.monotonic()
                log.info("sent %d transactions", self.sent)

    def send_history(self, target: PostgresTarget | KafkaTarget, items: Iterator[Item], days: int) -> None:
        """Send all at once, with a progress bar by days if a terminal watches."""
        first = (datetime.now(UTC) - timedelta(days=days)).date()
        with typer.progressbar(length=days, label=f"{days} days", file=sys.stderr) as bar:
            while not self.is_stopped and (batch := list(islice(items, BATCH))):
                target.send(batch)
                self.sent += len(batch)
                bar.update((batch[-1].transaction.updated_at.date() - first).days - bar.pos)


def parse_days(text: str | None) -> int | None:
    """The number of days in `90d`; None for None."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})d?", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not a number of days, for example 90d", param_hint="--history")
    return int(match[1])


def default_dsn() -> str:
    host = os.environ.get("SHOP_POSTGRES_HOST") or "127.0.0.1"
    port = os.environ.get("SHOP_POSTGRES_PORT") or 5432
    password = os.environ.get("SHOP_LOADER_PASSWORD")
    dsn = f"host={host} port={port} dbname=data_warehouse user=shop_loader"
    return f"{dsn} password={password}" if password else dsn


def default_broker() -> str:
    return f"127.0.0.1:{os.environ.get('KAFKA_PORT') or 29092}"


def open_kafka(broker: str, topic: str, timeout: float, run: Run) -> KafkaTarget:
    """
    Raises:
        TargetError: no broker answers.
    """
    # A shop without Kafka does not need confluent-kafka.
    from shop_kafka import KafkaTarget  # noqa: PLC0415

    return KafkaTarget(broker, topic, timeout, lambda: run.is_stopped)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    to: Annotated[To, typer.Option(help="Target: straight into the table transactions_raw, or through Kafka.")],
    rate: Annotated[float, typer.Option(min=0, help="Transactions per second; 0: no limit.")] = 10,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many; default: run until Ctrl-C.")] = None,
    history: Annotated[
        str | None,
        typer.Option(
            metavar="DAYSd",
            help="Back-fill the last days (90d) with weekday, hour and trend, then stop. A second back-fill with the "
            "same seed repeats the first one.",
        ),
    ] = None,
    per_day: Annotated[int, typer.Option(min=1, help="With --history: about how many orders a day.")] = 500,
    faulty: Annotated[
        float, typer.Option(min=0, max=1, help="Share of faulty ones; in Kafka, datastream.fault has the reason.")
    ] = 0,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of exact repeats of earlier ones.")] = 0,
    late: Annotated[float, typer.Option(min=0, max=1, help="Share with a date up to three days ago.")] = 0.01,
    seed: Annotated[
        int | None,
        typer.Option(help=f"The same seed gives the same data. Default: random; {HISTORY_SEED} with --history."),
    ] = None,
    dsn: Annotated[
        str,
        typer.Option(
            envvar="SHOP_DSN",
            default_factory=default_dsn,
            show_default="shop_loader at SHOP_POSTGRES_HOST, SHOP_POSTGRES_PORT, SHOP_LOADER_PASSWORD",
            help="PostgreSQL, as a URL or as libpq's key=value. Missing tables are created.",
        ),
    ],
    broker: Annotated[
        str,
        typer.Option(
            envvar="SHOP_BROKER",
            metavar="HOST:PORT[,...]",
            default_factory=default_broker,
            show_default="127.0.0.1, port KAFKA_PORT or 29092",
            help="Address of Kafka.",
        ),
    ],
    topic: Annotated[str, typer.Option(envvar="SHOP_TOPIC", help="Kafka topic.")] = "shop_transactions",
    log_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SHOP_LOG_FILE",
            help="Also write the application's log there, a JSON line for each transaction, but not of a back-fill. "
            "--faulty and --duplicates apply to its lines too.",
        ),
    ] = None,
    incident: Annotated[
        bool, typer.Option("--incident", help="Log an incident: a third of the requests fail, and all are slow.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to keep trying while the target is down.")] = 30,
) -> None:
    """Generate the transactions of a shop, with clients and products.

    Exit code 0: all were delivered; 1: not, or the target does not answer.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    days = parse_days(history)
    if incident and log_file is None:
        raise typer.BadParameter("needs --log-file", param_hint="--incident")
    if seed is None:
        seed = secrets.randbelow(2**32) if days is None else HISTORY_SEED
    drawn = draw_live(seed, late) if days is None else draw_history(seed, days, per_day, datetime.now(UTC))
    items: Any = add_faults(drawn, seed, faulty, duplicates, with_untyped=to is To.KAFKA)
    run = Run()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.stop)
    try:
        target: PostgresTarget | KafkaTarget = (
            open_kafka(broker, topic, timeout, run)
            if to is To.KAFKA
            else PostgresTarget(dsn, timeout, lambda: run.is_stopped)
        )
        log.info("sending to %s", target.name)
        with ExitStack() as stack:
            app_log = None
            if log_file is not None and days is None:
                app_log = ApplicationLog(log_file, seed, is_incident=incident, faulty=faulty, duplicates=duplicates)
                stack.callback(app_log.close)
            if days is None:
                run.send_live(target, islice(items, count), rate, app_log)
            else:
                run.send_history(target, islice(items, count), days)
            target.close()
    except TargetError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    log.info("sent %d transactions, %d of them refused", run.sent, target.refused)


if __name__ == "__main__":
    app()
