"""Checks the tickets, assigns a team to each, and writes the outputs: `python spark_processor.py --help`."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import AbstractContextManager
from enum import StrEnum
from threading import Event
from typing import Annotated

import typer
from pyspark.sql import SparkSession

from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.kafka.offsets import Bounds
from jobs.settings import load
from jobs.spark.checkpoint import check_position, is_locked, open_checkpoint
from jobs.spark.failure import AGAIN
from jobs.spark.memory import check_memory
from jobs.spark.session import open_session
from jobs.terminal import make_console, print_error
from jobs.tickets import contract
from jobs.tickets.outputs import FORMATS, Format
from jobs.tickets.owner import become_owner
from jobs.tickets.source import Topic
from jobs.tickets.spark.batch import process_topic
from jobs.tickets.spark.stream import Stream
from jobs.tickets.summary import Summary
from jobs.tickets.vertical import GROUP, TicketsSettings

log = logging.getLogger("ticket_processor")

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
REMEDY = "raise the limit (in Docker: TICKETS_PROCESSOR_LIMIT in .env, then `docker compose --profile tickets up -d`)"
# Half of the CPU time of a batch of a thousand tickets: 32 s instead of 59 s, most of it for the start of Java.
JAVA_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
LOOK_EVERY_S = 1.0
# A file that the stream touches while it runs, for the health check in Docker.
ALIVE = "alive"


class Mode(StrEnum):
    """batch: the messages that the topic holds now. stream: new messages every 30 seconds, until a signal."""

    BATCH = "batch"
    STREAM = "stream"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    mode: Annotated[
        Mode, typer.Option(help="batch: what the topic holds now. stream: new tickets every 30 seconds.")
    ] = Mode.BATCH,
    memory: Annotated[str, typer.Option(help="Heap of Java: 512m, 2g. Default: SPARK_MEMORY.")] = "",
    output_format: Annotated[str, typer.Option(help="parquet or json. Default: OUTPUT_FORMAT.")] = "",
) -> None:
    """Process the tickets of TOPIC_NAME into the folder OUTPUT_PATH.

    Exit code 0: done, or stopped by a signal; 1: an error.
    """
    try:
        settings = load(TicketsSettings)
        given = {"tickets_spark_memory": memory, "tickets_output_format": output_format}
        run(settings.model_copy(update={name: value for name, value in given.items() if value}), mode)
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)


def run(settings: TicketsSettings, mode: Mode) -> None:
    """Wait for the broker, then process.

    Raises:
        ConfigurationError: a setting is invalid, the memory does not fit, or the topic is missing.
        ServiceUnavailableError: no broker answers, or Spark does not start, fails or ends.
        OffsetsError: the stream's next messages are gone.
    """
    if settings.tickets_log_level.upper() not in LEVELS:
        raise ConfigurationError(f"LOG_LEVEL={settings.tickets_log_level!r} is none of {', '.join(LEVELS)}.")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(settings.tickets_log_level.upper())
    fmt = find_format(settings.tickets_output_format)
    check_memory(settings.tickets_spark_memory, REMEDY)
    if settings.tickets_environment == "docker":
        become_owner(settings.tickets_output_path)
    if mode is Mode.STREAM and not is_locked(settings.tickets_state):
        # After a crash, the health check must not find the file of the run before.
        (settings.tickets_state / ALIVE).unlink(missing_ok=True)
    topic = Topic(settings.tickets_broker, settings.tickets_topic_name)
    topic.wait(settings.tickets_producer_timeout)
    bounds = topic.read_bounds()
    ranges = ", ".join(f"{partition}: {bound.low} to {bound.end}" for partition, bound in bounds.items())
    log.info("%s at %s holds the offsets %s", topic.name, topic.broker, ranges)
    if mode is Mode.STREAM:
        stream(settings, topic, bounds, fmt)
    else:
        process(settings, topic, bounds, fmt)


def find_format(name: str) -> Format:
    """
    Raises:
        ConfigurationError: it is not one of FORMATS.
    """
    for fmt in FORMATS:
        if fmt == name:
            return fmt
    raise ConfigurationError(f"OUTPUT_FORMAT={name!r} is none of {', '.join(FORMATS)}.")


def process(settings: TicketsSettings, topic: Topic, bounds: dict[int, Bounds], fmt: Format) -> None:
    """Process one batch."""
    if is_locked(settings.tickets_state):
        log.warning(
            "A stream is running. If it also writes to %s, its next batch replaces these outputs. Or set OUTPUT_PATH.",
            settings.tickets_output_path,
        )
    with _open(settings) as spark:
        summary = process_topic(spark, topic, bounds, settings.tickets_output_path, fmt)
    summary.write_log(lag=0)


def stream(settings: TicketsSettings, topic: Topic, bounds: dict[int, Bounds], fmt: Format) -> None:
    """Process batches until SIGTERM or Ctrl-C."""
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def report(summary: Summary) -> None:
        topic.commit(GROUP, summary.run.ends)
        ends = {partition: bound.end for partition, bound in topic.read_bounds().items()}
        lag = sum(ends.values()) - sum(summary.run.ends.values())
        summary.write_log(lag)
        if settings.tickets_statsd:
            summary.send_metrics(settings.tickets_statsd, lag)

    folder = settings.tickets_state
    job = {"topic": topic.name, "topic_id": topic.read_id(), "contract": contract.VERSION}
    with open_checkpoint(folder, job) as checkpoint:
        first = {partition: bound.low for partition, bound in bounds.items()}
        check_position(checkpoint, topic.name, first, {partition: bound.end for partition, bound in bounds.items()})
        with _open(settings) as spark:
            query = Stream(topic, folder, settings.tickets_output_path, fmt, report).start(spark)
            while query.isActive and not stopped.wait(LOOK_EVERY_S):
                if query.lastProgress is not None:
                    (folder / ALIVE).touch()
            if (error := query.exception()) is not None:
                raise ServiceUnavailableError(f"The stream failed: {error}\n{AGAIN}")
            query.stop()
    log.info("stopped")


def _open(settings: TicketsSettings) -> AbstractContextManager[SparkSession]:
    return open_session(
        "tickets",
        memory=settings.tickets_spark_memory,
        master=f"local[{settings.tickets_spark_executor_cores}]",
        java_options=JAVA_OPTIONS,
    )


if __name__ == "__main__":
    app()
