"""Check samples of messages against a JSON Schema of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import Message
from jsonschema import Draft202012Validator

from jobs.kafka.dead_letter import read_headers


def find_schema_faults(schema: Path, messages: Iterable[Message], convert: Callable[[Message], Any]) -> list[str]:
    """Find what breaks a JSON Schema; each text names the message.

    Args:
        convert: returns the part of a message that the schema describes: `parse_value` or `decode_headers`.
    """
    validator = Draft202012Validator(json.loads(schema.read_text()))
    return [
        f"{message.topic()}[{message.partition()}]@{message.offset()} breaks its schema: {fault.message[:200]}"
        for message in messages
        for fault in validator.iter_errors(convert(message))
    ]


def parse_value(message: Message) -> Any:
    """Parse a message's value as JSON; return None if it is not JSON."""
    try:
        return json.loads(message.value() or b"")
    except (ValueError, RecursionError):
        return None


def decode_headers(message: Message) -> dict[str, str]:
    """Return a message's headers as text, by name."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in read_headers(message) or []}
