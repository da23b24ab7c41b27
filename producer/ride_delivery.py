"""Send messages to Kafka at a given rate, and count the deliveries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Report

from ride_messages import Message

ANSWER_S = 5.0  # timeout of the first request to a broker
DELIVERY_S = 120  # timeout until a message is acknowledged; as in the Java client, longer than a broker's restart
BURST = 500  # the most messages sent before the rate is checked again
TICK_S = 0.005  # shortest pause between two bursts
LONGEST_PAUSE_S = 0.2  # so that a stop request takes effect soon

FAULT_HEADER = "datastream.fault"


class DeliveryError(Exception):
    """No message can be sent. The text has the address and what to do."""


@dataclass
class Counts:
    """Numbers of messages: passed to the Kafka client (`sent`, with `faulty` and `duplicates` in it), and delivered."""

    sent: int = 0
    faulty: int = 0
    duplicates: int = 0
    delivered: int = 0
    failed: int = 0
    first_error: str = ""

    def fail(self, reason: str) -> None:
        self.failed += 1
        self.first_error = self.first_error or reason


@dataclass
class Stop:
    """The signals received: the first stops sending, the second stops waiting for acknowledgements.

    `broken` is set when the broker no longer accepts messages.
    """

    signals: list[int] = field(default_factory=list)
    broken: bool = False

    def is_asked(self) -> bool:
        return bool(self.signals) or self.broken


class Sender:
    """A Kafka producer that counts its messages."""

    def __init__(self, servers: str, topic: str, stop: Stop) -> None:
        """Connect to Kafka.

        Raises:
            DeliveryError: no broker answers within ANSWER_S, or the topic does not exist.
        """
        self.topic = topic
        self.stop = stop
        self.counts = Counts()
        self._trouble = ""
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "client.id": "datastream-producer",
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # as in the Java client, so that a key has one partition
                "linger.ms": 50,
                "compression.type": "lz4",
                "message.max.bytes": 2 * 2**20,  # above the topic's limit, so that the broker decides
                "queue.buffering.max.kbytes": 128 * 2**10,
                "delivery.timeout.ms": DELIVERY_S * 1000,
                "on_delivery": self._on_delivery,
                "error_cb": self._on_error,
                "log_level": 2,  # this program reports the errors
            }
        )
        try:
            # List all topics: a request for one by name creates it on a broker with auto.create.topics.enable.
            topics = self._producer.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            self._producer.poll(0)  # calls error_cb, whose error has the cause
            raise DeliveryError(
                f"no Kafka broker answers at {servers} ({self._trouble or error.args[0].str()}).\n"
                "Start the stack (`make local-up` or `docker compose up`), or correct the address "
                "(--bootstrap-servers, KAFKA_BOOTSTRAP_SERVERS, KAFKA_PORT)."
            ) from error
        if topic not in topics:
            raise DeliveryError(
                f"topic {topic} does not exist at {servers}.\n"
                "Create the topics with `make topics`, or choose another one (--topic, RAW_TOPIC)."
            )

    def run(
        self,
        messages: Iterator[Message],
        *,
        rate: float,
        count: int | None,
        seconds: float | None,
        progress: Callable[[], None],
    ) -> None:
        """Send until the messages end, the count or the time is reached, or a stop is requested.

        The k-th message is due k / rate seconds after the start, so the mean rate is right even after long pauses. A
        rate of 0 means no limit.
        """
        started = time.monotonic()
        elapsed = 0.0
        while not self.stop.is_asked() and (seconds is None or elapsed < seconds):
            due = BURST if not rate else min(BURST, math.floor(elapsed * rate) + 1 - self.counts.sent)
            if count is not None:
                due = min(due, count - self.counts.sent)
            if due > 0 and not self._send_all(islice(messages, due), due):
                break
            if self.counts.sent == count:
                break
            self._producer.poll(0)
            progress()
            elapsed = time.monotonic() - started
            if rate and (ahead := self.counts.sent / rate - elapsed) > 0:
                time.sleep(min(max(ahead, TICK_S), LONGEST_PAUSE_S))
                elapsed = time.monotonic() - started

    def flush(self, progress: Callable[[], None]) -> None:
        """Wait until each message is acknowledged or has failed, for at most DELIVERY_S + 5 seconds."""
        deadline = time.monotonic() + DELIVERY_S + 5
        while self._producer.flush(0.2) and time.monotonic() < deadline and len(self.stop.signals) < 2:
            progress()
        lost = self.counts.sent - self.counts.delivered - self.counts.failed
        if lost:
            self.counts.failed += lost
            self.counts.first_error = self.counts.first_error or f"{lost} messages were not acknowledged in time"

    def _send_all(self, messages: Iterator[Message], expected: int) -> bool:
        """Send a burst; False if there were fewer messages than expected, or a stop was requested."""
        taken = 0
        for message in messages:
            if not self._send(message):
                return False
            taken += 1
        return taken == expected

    def _send(self, message: Message) -> bool:
        """Pass one message to the client, and wait while its queue is full. False if a stop was requested meanwhile."""
        headers = [(FAULT_HEADER, message.fault.encode())] if message.fault else None
        while True:
            try:
                if headers:
                    self._producer.produce(self.topic, message.value, message.key, headers=headers)
                else:
                    self._producer.produce(self.topic, message.value, message.key)
                break
            except BufferError:
                if self.stop.is_asked():
                    return False
                self._producer.poll(0.1)
            except KafkaException as error:  # rejected by the client, for example because it is too large
                self._count_failure(error.args[0])
                break
        self.counts.sent += 1
        self.counts.faulty += message.fault is not None
        self.counts.duplicates += message.duplicate
        return True

    def _on_delivery(self, error: KafkaError | None, _: Report) -> None:
        if error is None:
            self.counts.delivered += 1
        else:
            self._count_failure(error)

    def _count_failure(self, error: KafkaError) -> None:
        self.counts.fail(self._describe(error))
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError._MSG_TIMED_OUT):
            self.stop.broken = True

    def _describe(self, error: KafkaError) -> str:
        if error.code() == KafkaError._MSG_TIMED_OUT:
            return f"no acknowledgement within {DELIVERY_S} s{f' ({self._trouble})' if self._trouble else ''}"
        return str(error.str())

    def _on_error(self, error: KafkaError) -> None:
        # Skip "All brokers are down": the error before it has the address and the cause.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble:
            self._trouble = error.str()
