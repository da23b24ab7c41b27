"""Dead letters: the unchanged message, and headers with the error, named as in Kafka Connect (KIP-298)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from confluent_kafka import Message

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes | None]]

_PREFIX = "__connect.errors."
OFFSET = _PREFIX + "offset"
REASON = _PREFIX + "exception.class.name"
MESSAGE = _PREFIX + "exception.message"
STACKTRACE = _PREFIX + "exception.stacktrace"
# Counts how often a message was sent back to its source topic. The count is limited.
REPLAYED = "datastream.replayed"
# Far above what a topic can have. A partition and an offset within these limits fit into 63 bits.
_MAX_PARTITION, _MAX_OFFSET = 2**15 - 1, 2**48 - 1


@dataclass(frozen=True)
class Origin:
    """The partition of a failed message, and the task in which it failed."""

    topic: str
    partition: int
    dag_id: str
    task_id: str
    stage: str

    @cached_property
    def headers(self) -> Headers:
        texts = {
            "topic": self.topic,
            "partition": str(self.partition),
            "connector.name": self.dag_id,
            "task.id": self.task_id,
            "stage": self.stage,
        }
        return [(_PREFIX + name, text.encode()) for name, text in texts.items()]


def read_headers(message: Message) -> Headers | None:
    """The headers of a message; None without headers, or if a key is not UTF-8, which the client cannot read."""
    (headers,) = read_all_headers([message])
    return headers


def read_all_headers(messages: Sequence[Message]) -> list[Headers | None]:
    """The headers of each message, as for `read_headers`.

    If a key is not UTF-8, confluent-kafka returns a list with null pointers and leaves an exception set. A call from C
    (by map) notices the exception and raises SystemError; a call from Python does not. The message keeps the list, and
    the interpreter crashes when the list is read again. So the headers are removed from the message.
    """
    headers: list[Headers | None] = []
    reading = map(Message.headers, messages)
    while len(headers) < len(messages):
        try:
            headers.extend(reading)
        except (SystemError, UnicodeDecodeError):
            message = messages[len(headers)]
            message.set_headers(None)
            headers.append(None)
            where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
            log.warning("%s: dropped the headers, because a key is not UTF-8 and the client cannot read them", where)
    return headers


def read_error(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> str:
    """The text of an error header, by its name after the prefix; empty if it is missing."""
    # The last one counts: the others are from earlier replays of the message.
    for key, value in reversed(headers or []):
        if key == _PREFIX + name:
            return (value or b"").decode("utf-8", "replace")
    return ""


def read_position(headers: Sequence[tuple[str, bytes | None]] | None) -> tuple[int, int] | None:
    """The partition and offset of the source message; None if a header is missing or not a number that Kafka has."""
    texts = read_error(headers, "partition"), read_error(headers, "offset")
    if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in texts):
        return None
    partition, offset = map(int, texts)
    return (partition, offset) if partition <= _MAX_PARTITION and offset <= _MAX_OFFSET else None


def is_dead_letter_of(headers: Sequence[tuple[str, bytes | None]] | None, source: str, dag_id: str) -> bool:
    """Whether a DAG wrote this dead letter about a message of its source topic. Other clients may write there, too."""
    return read_error(headers, "topic") == source and read_error(headers, "connector.name") == dag_id


def count_replays(headers: Sequence[tuple[str, bytes | None]] | None) -> int:
    """How often the message was sent back to its source topic. A mark that is not a number counts as once."""
    marks = [value or b"" for key, value in headers or [] if key == REPLAYED]
    return max((int(mark) if mark.isdigit() and len(mark) < 10 else 1 for mark in marks), default=0)


def make_replay_headers(headers: Sequence[tuple[str, bytes | None]] | None) -> Headers:
    """The headers for sending a dead letter back: without the error headers, with the replay count."""
    kept = [(key, value) for key, value in headers or [] if not key.startswith(_PREFIX) and key != REPLAYED]
    return [*kept, (REPLAYED, str(count_replays(headers) + 1).encode())]
