"""Rides on Spark: `python -m jobs.spark_enrich --help`, in .venv-spark."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Annotated

import typer

from jobs.clients import make_kafka_config
from jobs.errors import DatastreamError
from jobs.rides.spark import driver
from jobs.rides.spark.batch import SparkEngine
from jobs.rides.spark.session import open_session
from jobs.rides.spark.stream import Counts, Stream
from jobs.rides.spark.vertical import STREAM_GROUP, SparkSettings
from jobs.rides.vertical import COMPUTE_GROUP
from jobs.settings import LOOPBACK, load
from jobs.spark.checkpoint import open_checkpoint
from jobs.spark.failure import AGAIN, find_cause
from jobs.terminal import make_console, print_error

log = logging.getLogger("spark_enrich")

LOOK_EVERY_S = 1.0
# A file that the stream touches while it runs, for the health check in Docker.
ALIVE = "alive"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Price the rides of RAW_TOPIC on Spark, exactly once.

    Settings: SPARK_MASTER and others, see .env.example and docs/spark.md.
    """


@app.command()
def stream(
    takeover: Annotated[
        bool,
        typer.Option("--main", help="Publish to RESULT_TOPIC and DLQ_TOPIC, in place of dag_compute_cost. "
                     "`make engine TO=spark` first."),
    ] = False,
    once: Annotated[bool, typer.Option(help="Price what the topic has now, then end.")] = False,
) -> None:  # fmt: skip
    """Price new rides until a signal; by default to SPARK_RESULT_TOPIC and SPARK_DLQ_TOPIC.

    Exit code 0: done, or stopped by a signal; 3: an error. Start it again to continue.
    """
    run_stream(load(SparkSettings), COMPUTE_GROUP if takeover else STREAM_GROUP, once=once)


@app.command()
def drive(host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK) -> None:
    """Price the claims of dag_compute_cost with COMPUTE_ENGINE=spark, one at a time, until a signal.

    Exit code 0: stopped by a signal; 3: an error. Start it again to continue.
    """
    logging.getLogger(driver.__name__).setLevel(logging.INFO)
    settings = load(SparkSettings)

    @contextmanager
    def open_engine() -> Iterator[SparkEngine]:
        with open_session(driver.SERVER, settings) as spark:
            yield SparkEngine(spark, make_kafka_config(settings))

    driver.serve(settings, host, open_engine)


def run_stream(settings: SparkSettings, group: str, *, once: bool) -> None:
    """
    Raises:
        ConfigurationError: a setting is invalid, a topic is missing, or Spark does not own the group.
        OffsetsError: the stream's next messages are gone.
        ServiceUnavailableError: the broker is down, Spark does not start or ends, or a batch failed.
    """
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    folder = settings.checkpoints / group
    alive = settings.checkpoints / ALIVE
    alive.unlink(missing_ok=True)

    def report(counts: Counts) -> None:
        log.info("batch %d: %d results, %d rejects", counts.batch, counts.results, counts.rejects)

    enrich = Stream(settings, make_kafka_config(settings), group, folder / "checkpoint", report)
    with open_checkpoint(folder, enrich.job):
        enrich.check_position()
        with open_session(group, settings) as spark:
            query = enrich.start(spark, once=once)
            log.info("%s prices %s into %s", group, enrich.topic, enrich.outlet.result_topic)
            while query.isActive and not stopped.wait(LOOK_EVERY_S):
                if query.lastProgress is not None or query.status["isDataAvailable"]:
                    alive.touch()
            error = query.exception()
            query.stop()
            if error is not None:
                raise find_cause(enrich.failure or error, AGAIN)
    log.info("stopped")


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    try:
        app()
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(3)
