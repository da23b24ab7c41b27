"""Transactions of a consumer group. The transactional id is the group's id, which fences every older worker.

Consumers with assigned partitions have no other fence, so the id must not contain a run, a try or an index. The order
is fixed: init_transactions, read the committed offsets, drop the messages that they cover, begin. Spark's tasks own one
partition each, and have an id for each partition (jobs/kafka/engine.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from jobs.errors import IS_IT_UP, ConfigurationError, ServiceUnavailableError
from jobs.kafka.client import CONNECTED, MAX_MESSAGE_BYTES, PARTITIONER, QUIET, REQUEST_TIMEOUT_S, Config
from jobs.kafka.dead_letter import Headers
from jobs.kafka.engine import check_engine, name_transactional_id
from jobs.kafka.offsets import (
    Committed,
    GroupReader,
    encode_metadata,
    list_partitions,
    open_group_reader,
    read_topic_id,
)
from jobs.vertical import Engine

# The longest time for which the open transaction of a killed worker holds readers back.
_TRANSACTION_TIMEOUT_S = 20

# librdkafka's RD_KAFKA_PARTITION_UA.
PARTITION_BY_KEY = -1

# Seconds after its timeout until a call is given up.
_GRACE_S = 5


class _NoAnswerError(ServiceUnavailableError):
    """A call of librdkafka did not return."""


def _call_with_timeout(call: Callable[..., object], *arguments: Any) -> None:
    """Make a transactional call and enforce its timeout, which is the last argument, in seconds.

    librdkafka 2.16 can block forever in send_offsets_to_transaction if the broker is killed meanwhile (reproduced). A
    thread that blocks in C handles no signals either. So the call runs in a daemon thread, which is abandoned.
    """
    answer: Future[object] = Future()

    def make() -> None:
        try:
            answer.set_result(call(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    try:
        answer.result(arguments[-1] + _GRACE_S)
    except FutureTimeoutError:
        name, seconds = getattr(call, "__name__", "a call"), arguments[-1] + _GRACE_S
        raise _NoAnswerError(
            f"Kafka's client did not return from {name} within {seconds:.0f} s: the connection to the broker was lost. "
            f"The transaction is committed completely or not at all; the next try checks. {IS_IT_UP}"
        ) from None


class FencedError(ServiceUnavailableError):
    """A newer worker with the same transactional id has taken over, or the transaction timed out. It was aborted."""


class _Sender:
    """What both kinds of writers share."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    @contextmanager
    def _run(self, finish: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A transaction; `finish` is called before its commit."""
        self._producer.begin_transaction()
        try:
            yield
            finish()
            _call_with_timeout(self._producer.commit_transaction, REQUEST_TIMEOUT_S)
        except _NoAnswerError:
            raise  # abort_transaction would block too; init_transactions of the next worker aborts
        except BaseException:
            self._abort()
            raise

    def send_all(self, topic: str, messages: list[dict[str, Any]]) -> None:
        """Send messages in one call, each with key and value and without headers."""
        queued = self._producer.produce_batch(topic, messages)
        if queued != len(messages):
            fault = next(message["_error"] for message in messages if "_error" in message)
            raise KafkaException(fault)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int = PARTITION_BY_KEY
    ) -> None:
        """Send one message with its headers; waits while the producer's queue is full."""
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, headers=headers, partition=partition)
            except BufferError:
                self._producer.poll(1)
            else:
                return

    def free_delivered(self) -> None:
        """Free acknowledged messages; the client keeps them until poll() is called.

        Raises:
            KafkaException: a newer worker has taken over.
        """
        self._producer.poll(0)

    def _abort(self) -> None:
        try:
            _call_with_timeout(self._producer.abort_transaction, REQUEST_TIMEOUT_S)
        except KafkaException as error:
            # A fenced or failed producer cannot abort; the broker aborts when the next worker initialises.
            if not error.args[0].fatal() and error.args[0].code() not in _ABORT_IS_LEFT_TO_THE_BROKER:
                raise


class Writer(_Sender):
    """Writes messages. Created by `open_writer` after it fenced older workers."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: all messages sent inside become visible together, or not at all."""
        with self._run():
            yield


class GroupWriter(_Sender):
    """Writes messages together with its group's offsets. Created by `open_group_writer` after it fenced older workers.

    `topic_id` is the current id of the source topic.
    """

    def __init__(self, producer: Producer, reader: GroupReader, topic_id: str, engine: Engine) -> None:
        super().__init__(producer)
        self.reader = reader
        self.topic = reader.topic
        self.topic_id = topic_id
        self.engine = engine

    def read_committed(self) -> dict[int, Committed]:
        """The group's committed offsets, by partition of the source topic.

        Raises:
            ConfigurationError: the other engine owns the group.
            OffsetsError: another client committed with this group id.
        """
        offsets = self.reader.read_committed()
        self.check_engine(offsets)
        return offsets

    def check_engine(self, offsets: Mapping[int, Committed]) -> None:
        """Raise ConfigurationError if the other engine committed one of these offsets."""
        check_engine(self.topic, self.reader.group, offsets, self.engine)

    def read_offsets(self) -> dict[int, int | None]:
        """The group's committed offsets without their metadata; None if it never committed."""
        return {partition: committed.offset for partition, committed in self.read_committed().items()}

    @contextmanager
    def transaction(
        self, offsets: Mapping[int, int], plans: Mapping[int, bytes] | None = None, *, engine: Engine | None = None
    ) -> Iterator[None]:
        """A transaction: all messages sent inside become visible together with the group's new offsets, or not at all.

        Args:
            offsets: by partition of the source topic.
            plans: JSON for the metadata of offsets, by partition (see `Committed.decode_plan`).
            engine: the owner of the group from now on, if it changes.
        """
        noted = plans or {}
        owner = engine or self.engine

        def send_offsets() -> None:
            for client in self.reader.writers:
                positions = [
                    TopicPartition(
                        self.topic,
                        partition,
                        offset,
                        metadata=encode_metadata(self.topic_id, noted.get(partition), owner),
                    )
                    for partition, offset in offsets.items()
                ]
                group = client.consumer_group_metadata()
                _call_with_timeout(self._producer.send_offsets_to_transaction, positions, group, REQUEST_TIMEOUT_S)

        with self._run(send_offsets):
            yield

    def check_topics(self, *topics: str) -> None:
        """Raise ConfigurationError if a topic does not exist. Without this check, sending waits until its timeout."""
        for topic in topics:
            list_partitions(self.reader.consumer, topic)


# After the first error of a fenced producer, librdkafka answers every call with _FATAL.
_TAKEN_OVER = {
    KafkaError._FENCED,
    KafkaError._FATAL,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}
_ABORT_IS_LEFT_TO_THE_BROKER = {KafkaError._TIMED_OUT, KafkaError._STATE, KafkaError._TRANSPORT, KafkaError._CONFLICT}


@contextmanager
def open_writer(
    config: Config, transactional_id: str, max_records: int, *, transaction_timeout_s: int = _TRANSACTION_TIMEOUT_S
) -> Iterator[Writer]:
    """Fence every older worker with this id, then write.

    Args:
        config: at least bootstrap.servers.
        transactional_id: the same for every worker that does this work.
        max_records: the most messages in one transaction; sets the size of the producer's queue.

    Raises:
        FencedError: a newer worker has taken over.
        ServiceUnavailableError: a broker is down. Nothing was committed.
    """
    with _translate_errors(config, transactional_id, transaction_timeout_s):
        yield Writer(_open_producer(config, transactional_id, max_records, transaction_timeout_s))


@contextmanager
def open_group_writer(
    config: Config,
    group: str,
    topic: str,
    chunk_records: int,
    *,
    partition: int | None = None,
    transaction_timeout_s: int = _TRANSACTION_TIMEOUT_S,
) -> Iterator[GroupWriter]:
    """Fence every older worker of `group`, then write for it.

    Args:
        config: at least bootstrap.servers.
        group: consumer group; also the transactional id.
        topic: the group's source topic.
        chunk_records: the most messages in one transaction; sets the size of the producer's queue.
        partition: the one that a task of Spark owns: its own id fences the older workers of this partition only.

    Raises:
        ConfigurationError: the topic does not exist.
        FencedError: a newer worker has taken over.
        ServiceUnavailableError: a broker is down. Nothing was committed.
    """
    with (
        _translate_errors(config, f"group {group}", transaction_timeout_s),
        open_group_reader(config, topic, group, partitions=() if partition is None else [partition]) as reader,
    ):
        transactional_id = name_transactional_id(group, partition)
        producer = _open_producer(config, transactional_id, chunk_records, transaction_timeout_s)
        list_partitions(reader.consumer, topic)  # raises ConfigurationError if the topic does not exist
        engine: Engine = "python" if partition is None else "spark"
        yield GroupWriter(producer, reader, read_topic_id(config, topic), engine)


def _open_producer(config: Config, transactional_id: str, max_records: int, timeout_s: int) -> Producer:
    producer = Producer(
        {
            **QUIET,
            **CONNECTED,
            **config,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_s * 1000,
            "partitioner": PARTITIONER,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "queue.buffering.max.messages": max(100_000, 2 * max_records),
            "queue.buffering.max.kbytes": 1_048_576,
            # For some milliseconds after a commit, the broker rejects the first requests of the next transaction.
            "retry.backoff.ms": 10,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
        }
    )
    _call_with_timeout(producer.init_transactions, REQUEST_TIMEOUT_S)
    return producer


@contextmanager
def _translate_errors(config: Config, writer: str, timeout_s: int) -> Iterator[None]:
    """Turn a KafkaException into an error with the address and what to do."""
    try:
        yield
    except KafkaException as error:
        fault = error.args[0]
        where = f"Kafka at {config['bootstrap.servers']}: writing for {writer} failed"
        if fault.code() in _TAKEN_OVER:
            raise FencedError(
                f"{where}: a newer worker has taken over, or the transaction took longer than {timeout_s} s. The "
                "transaction was aborted."
            ) from error
        if fault.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise ConfigurationError(
                f"{where}: {fault.str()}. Raise max.message.bytes of the topic "
                "(infra/kafka/topics, docs/runbook_kafka.md)."
            ) from error
        raise ServiceUnavailableError(
            f"{where}: {fault.str()}. The transaction is committed completely or not at all; the next try checks. "
            f"{IS_IT_UP}"
        ) from error
