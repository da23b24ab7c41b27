"""Samples of messages, held against the contract's written form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import Message
from jsonschema import Draft202012Validator

from jobs.kafka.dead_letter import read_headers


def schema_faults(schema: Path, messages: Iterable[Message], content: Callable[[Message], Any]) -> list[str]:
    """What breaks a JSON Schema, in words that name the message.

    Args:
        content: makes of a message what the schema describes: `value_of` or `headers_as_text`.
    """
    validator = Draft202012Validator(json.loads(schema.read_text()))
    return [
        f"{message.topic()}[{message.partition()}]@{message.offset()} breaks its schema: {fault.message[:200]}"
        for message in messages
        for fault in validator.iter_errors(content(message))
    ]


def value_of(message: Message) -> Any:
    """A message's value as JSON; None if it is not JSON."""
    try:
        return json.loads(message.value() or b"")
    except ValueError:
        return None


def headers_as_text(message: Message) -> dict[str, str]:
    """A message's headers by their names."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in read_headers(message) or []}
