"""Generates support tickets and sends them to Redpanda or Kafka: `python ticket_producer.py --help`."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Report

from ticket_messages import Message, draw_messages

log = logging.getLogger("ticket_producer")

LINE_EVERY_S = 10.0  # between two lines of progress
LONGEST_PAUSE_S = 0.2  # so that a stop request takes effect soon
FAULT_HEADER = "datastream.fault"


class BrokerError(Exception):
    """The broker takes no messages. The text has its address and what to do."""


class Sender:
    """Sends messages at a rate, and counts the acknowledged ones.

    Args:
        timeout_s: seconds to keep trying while no broker answers, at the start and later.
    """

    def __init__(self, broker: str, topic: str, timeout_s: float) -> None:
        """
        Raises:
            BrokerError: no broker answers in time, or the topic does not exist.
        """
        self.sent = self.delivered = 0
        self.is_stopped = False
        self._broker, self._topic, self._timeout_s = broker, topic, timeout_s
        self._failure = self._trouble = ""
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "client.id": "ticket-producer",
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # as in the Java client, so that a key has one partition
                "linger.ms": 20,
                "compression.type": "lz4",
                "delivery.timeout.ms": round(timeout_s * 1000),
                "on_delivery": self._on_delivery,
                "error_cb": self._on_error,
                "log_level": 2,  # this program reports the errors
            }
        )
        try:
            topics = self._producer.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            self._producer.poll(0)  # calls error_cb, whose error has the cause
            raise BrokerError(self._describe_silence(error.args[0].str())) from error
        if topic not in topics:
            raise BrokerError(f"topic {topic} does not exist at {broker}. Create it with `make topics`.")

    def run(self, messages: Iterator[Message], rate: float) -> None:
        """Send until the messages end or a stop is requested. The k-th message is due k / rate seconds after the start.

        Raises:
            BrokerError: a message was not acknowledged in time.
        """
        started = logged = time.monotonic()
        for message in messages:
            due = started + self.sent / rate if rate else started
            while (left := due - time.monotonic()) > 0 and not self.is_stopped:
                self._poll(min(left, LONGEST_PAUSE_S))
            if self.is_stopped:
                break
            self._send(message)
            self._poll(0)
            if time.monotonic() >= logged + LINE_EVERY_S:
                logged = time.monotonic()
                log.info("sent %d tickets, delivered %d", self.sent, self.delivered)
        while len(self._producer):
            self._poll(LONGEST_PAUSE_S)

    def _send(self, message: Message) -> None:
        headers = [(FAULT_HEADER, message.fault)] if message.fault else None
        while True:
            try:
                self._producer.produce(self._topic, message.value, message.key, headers=headers)
                break
            except BufferError:  # the queue is full
                self._poll(LONGEST_PAUSE_S)
        self.sent += 1
        log.debug("ticket_id=%s fault=%s", message.key.decode(), message.fault or "-")

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        if self._failure:
            raise BrokerError(self._failure)

    def _on_delivery(self, error: KafkaError | None, report: Report) -> None:
        if error is None:
            self.delivered += 1
        elif error.code() == KafkaError._MSG_TIMED_OUT:
            self._failure = self._describe_silence("messages were not acknowledged")
        else:
            self._failure = f"{self._broker} refused a ticket for {report.topic()}: {error.str()}"

    def _on_error(self, error: KafkaError) -> None:
        # Skip "All brokers are down": the error before it has the address and the cause.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble:
            self._trouble = error.str()

    def _describe_silence(self, what: str) -> str:
        return (
            f"no broker answered at {self._broker} within {self._timeout_s:g} s ({self._trouble or what}). Start it, "
            "correct the address (--broker), or wait longer (PRODUCER_TIMEOUT)."
        )


def default_broker() -> str:
    return f"127.0.0.1:{os.environ.get('KAFKA_PORT') or 29092}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    rate: Annotated[
        float,
        typer.Option(envvar=["TICKETS_PRODUCER_RATE", "PRODUCER_RATE"], min=0, help="Tickets per second; 0: no limit."),
    ] = 10,
    broker: Annotated[
        str,
        typer.Option(
            envvar=["TICKETS_REDPANDA_BROKER_LOCAL", "REDPANDA_BROKER_LOCAL"],
            metavar="HOST:PORT[,...]",
            default_factory=default_broker,
            show_default="127.0.0.1, port KAFKA_PORT or 29092",
            help="Address of Redpanda or Kafka.",
        ),
    ],
    topic: Annotated[
        str, typer.Option(envvar=["TICKETS_TOPIC_NAME", "TOPIC_NAME"], help="Topic to send to.")
    ] = "client_tickets",
    timeout: Annotated[
        float,
        typer.Option(
            envvar=["TICKETS_PRODUCER_TIMEOUT", "PRODUCER_TIMEOUT"],
            min=1,
            help="Seconds to keep trying while no broker answers.",
        ),
    ] = 30,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many; default: run until Ctrl-C.")] = None,
    faulty: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of invalid tickets; their header datastream.fault has the reason."),
    ] = 0,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of exact repeats of earlier tickets.")] = 0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same tickets. Default: random.")] = None,
    log_level: Annotated[
        str,
        typer.Option(envvar=["TICKETS_LOG_LEVEL", "LOG_LEVEL"], help="DEBUG logs each ticket_id."),
    ] = "INFO",
) -> None:
    """Generate support tickets and send them to the topic.

    Each ticket is one JSON message, keyed by ticket_id. Exit code 0: every ticket was delivered; 1: not, or no broker
    answered.
    """
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"{log_level!r} is none of DEBUG, INFO, WARNING, ERROR", param_hint="--log-level")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    messages = draw_messages(secrets.randbelow(2**32) if seed is None else seed, faulty, duplicates)
    try:
        sender = Sender(broker, topic, timeout)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(sender, "is_stopped", True))
        log.info("sending to %s at %s, %s tickets a second", topic, broker, f"{rate:g}" if rate else "unlimited")
        sender.run(islice(messages, count), rate)
    except BrokerError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    log.info("sent %d tickets, delivered %d", sender.sent, sender.delivered)


if __name__ == "__main__":
    app()
