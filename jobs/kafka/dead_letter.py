"""Dead letters: the message untouched, and headers that say why, by the names of Kafka Connect (KIP-298)."""

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
# How often a message was sent back to its source topic; no one is sent back for ever.
REPLAYED = "datastream.replayed"


@dataclass(frozen=True)
class Origin:
    """The partition that a failed message is of, and the task that it failed in."""

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


def headers_of(message: Message) -> Headers | None:
    """A message's headers; None where it has none, and where a key is not UTF-8: the client cannot read those."""
    (headers,) = headers_of_all([message])
    return headers


def headers_of_all(messages: Sequence[Message]) -> list[Headers | None]:
    """The headers of each message, as `headers_of` gives them.

    Where a key is not UTF-8, confluent-kafka returns a list with holes and leaves an exception behind. A call from C,
    as map makes it, notices (SystemError), one from Python does not. And it keeps the list: who reads the message again
    gets it without an exception, and the interpreter crashes. So it is taken away.
    """
    found: list[Headers | None] = []
    reading = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(reading)
        except (SystemError, UnicodeDecodeError):
            message = messages[len(found)]
            message.set_headers(None)
            found.append(None)
            where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
            log.warning(
                "%s: its headers have a key that is not UTF-8 and cannot be read; it goes on without them", where
            )
    return found


def error_text(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> str:
    """One of the error headers, by its name after the prefix; empty where it is missing."""
    # The last one counts: earlier ones are of the message's earlier lives.
    for key, value in reversed(headers or []):
        if key == _PREFIX + name:
            return (value or b"").decode("utf-8", "replace")
    return ""


def is_dead_letter_of(headers: Sequence[tuple[str, bytes | None]] | None, source: str, dag_id: str) -> bool:
    """Whether a DAG has written this dead letter about a message of its source topic; others may write there, too."""
    return error_text(headers, "topic") == source and error_text(headers, "connector.name") == dag_id


def times_replayed(headers: Sequence[tuple[str, bytes | None]] | None) -> int:
    """How often the message was sent back to its source topic; a mark that is no number counts as once."""
    marks = [value or b"" for key, value in headers or [] if key == REPLAYED]
    return max((int(mark) if mark.isdigit() and len(mark) < 10 else 1 for mark in marks), default=0)


def replay_headers(headers: Sequence[tuple[str, bytes | None]] | None) -> Headers:
    """The headers for sending a dead letter back: its own, without the error, with a mark."""
    kept = [(key, value) for key, value in headers or [] if not key.startswith(_PREFIX) and key != REPLAYED]
    return [*kept, (REPLAYED, str(times_replayed(headers) + 1).encode())]
