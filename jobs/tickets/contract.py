"""The contract of a ticket: the valid messages of `client_tickets`, and the reasons to reject a message.

The JSON Schema is infra/kafka/schemas/client_tickets.schema.json.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from jobs.strict_json import (
    UUID,
    RejectedError,
    decode_text,
    normalise_timestamp,
    parse_object,
    read_member,
)

# Increase it with each change of what is valid: a stream does not continue with another contract.
VERSION = 1

MAX_REQUEST = 500  # Unicode characters

TEAMS = {
    "billing": "Billing Support",
    "technical": "Technical Support",
    "account": "Account Management",
    "general": "Customer Service",
}
PRIORITIES = ("low", "medium", "high", "critical")
HIGH_PRIORITIES = ("high", "critical")

_CLIENT_ID = re.compile(r"CLIENT_\d{4}", re.ASCII)


class Reason(StrEnum):
    """Why a message is in the output `rejects`, by precedence."""

    EMPTY_VALUE = "empty_value"
    INVALID_UTF8 = "invalid_utf8"
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TICKET_ID = "invalid_ticket_id"
    INVALID_CLIENT_ID = "invalid_client_id"
    INVALID_TIMESTAMP = "invalid_timestamp"
    EMPTY_REQUEST = "empty_request"
    REQUEST_TOO_LONG = "request_too_long"
    INVALID_TEXT = "invalid_text"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_PRIORITY = "unknown_priority"
    DUPLICATE_TICKET = "duplicate_ticket"


class Ticket(NamedTuple):
    """A valid ticket: ticket_id in lower case, created_at in UTC."""

    ticket_id: str
    client_id: str
    created_at: datetime
    request: str
    request_type: str
    priority: str


def parse_ticket(value: bytes | None) -> Ticket:
    """Parse and normalise one message of `client_tickets`.

    Raises:
        RejectedError: the first error in the bytes, in the JSON, or in the fields in the contract's order.
    """
    members = parse_object(decode_text(value))
    return Ticket._make(check(read_member(members, name, str, name)) for name, check in _CHECKS.items())


def _check_ticket_id(text: str) -> str:
    if not UUID.fullmatch(text):
        raise RejectedError(Reason.INVALID_TICKET_ID, f"ticket_id {text[:40]!r} is not a UUID")
    return text.lower()


def _check_client_id(text: str) -> str:
    if not _CLIENT_ID.fullmatch(text):
        raise RejectedError(Reason.INVALID_CLIENT_ID, f"client_id {text[:40]!r} is not CLIENT_ and four digits")
    return text


def _check_created_at(text: str) -> datetime:
    return datetime.fromisoformat(normalise_timestamp(text, "created_at"))


def _check_request(text: str) -> str:
    if not text.strip():
        raise RejectedError(Reason.EMPTY_REQUEST, "request is empty")
    if len(text) > MAX_REQUEST:
        raise RejectedError(Reason.REQUEST_TOO_LONG, f"request has {len(text)} characters, the limit is {MAX_REQUEST}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedError(Reason.INVALID_TEXT, f"request: character {error.start}: {error.reason}") from error
    return text


def _check_request_type(text: str) -> str:
    if text not in TEAMS:
        raise RejectedError(Reason.UNKNOWN_TYPE, f"request_type {text[:40]!r} is not one of {', '.join(TEAMS)}")
    return text


def _check_priority(text: str) -> str:
    if text not in PRIORITIES:
        raise RejectedError(Reason.UNKNOWN_PRIORITY, f"priority {text[:40]!r} is not one of {', '.join(PRIORITIES)}")
    return text


_CHECKS: dict[str, Callable[[str], str | datetime]] = {
    "ticket_id": _check_ticket_id,
    "client_id": _check_client_id,
    "created_at": _check_created_at,
    "request": _check_request,
    "request_type": _check_request_type,
    "priority": _check_priority,
}
