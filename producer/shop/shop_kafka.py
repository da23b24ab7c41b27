"""Sends transactions to Kafka, each as one JSON message with its transaction_id as the key."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from shop_postgres import TargetError
from shop_transactions import Item

FAULT_HEADER = "datastream.fault"
_POLL_S = 0.2


class KafkaTarget:
    """Sends messages and waits for their acknowledgements.

    Args:
        timeout_s: seconds to keep trying while no broker answers, at the start and later.
        is_stopped: whether to give up waiting.
    """

    def __init__(self, broker: str, topic: str, timeout_s: float, is_stopped: Callable[[], bool]) -> None:
        """
        Raises:
            TargetError: no broker answers in time, or the topic does not exist.
        """
        self.refused = 0
        self.name = f"{topic} at {broker}"
        self._broker, self._topic, self._timeout_s, self._is_stopped = broker, topic, timeout_s, is_stopped
        self._failure = self._trouble = ""
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "client.id": "shop-generator",
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
            raise TargetError(self._describe_silence(error.args[0].str())) from error
        if topic not in topics:
            raise TargetError(f"topic {topic} does not exist at {broker}. Create it with `make topics`.")

    def send(self, items: list[Item]) -> None:
        """
        Raises:
            TargetError: a message was not acknowledged in time.
        """
        for item in items:
            key = item.transaction.transaction_id.encode()
            headers = [(FAULT_HEADER, item.fault)] if item.fault else None
            while True:
                try:
                    self._producer.produce(self._topic, item.encode(), key, headers=headers)
                    break
                except BufferError:  # the queue is full
                    self._poll(_POLL_S)
            self._poll(0)

    def close(self) -> None:
        """Wait until all messages are acknowledged."""
        while len(self._producer):
            self._poll(_POLL_S)

    def _poll(self, seconds: float) -> None:
        self._producer.poll(seconds)
        if self._failure:
            raise TargetError(self._failure)

    def _on_delivery(self, error: KafkaError | None, report: Message) -> None:
        if error is None:
            return
        if error.code() == KafkaError._MSG_TIMED_OUT:
            self._failure = self._describe_silence("messages were not acknowledged")
        else:
            self._failure = f"{self._broker} refused a transaction for {report.topic()}: {error.str()}"

    def _on_error(self, error: KafkaError) -> None:
        # Skip "All brokers are down": the error before it has the address and the cause.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble:
            self._trouble = error.str()

    def _describe_silence(self, what: str) -> str:
        return (
            f"no broker answered at {self._broker} within {self._timeout_s:g} s ({self._trouble or what}). Start it, "
            "correct the address (--broker), or wait longer (--timeout)."
        )
