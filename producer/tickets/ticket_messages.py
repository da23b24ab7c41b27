"""Random support tickets, invalid ones and repeated ones.

The labels of the faults are the project's reasons: the output `rejects` uses the same strings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

Ticket = dict[str, str]

REQUESTS = {
    "billing": ("Invoice discrepancy", "Charged twice", "Payment method declined", "Refund has not arrived"),
    "technical": ("Service not working", "App closes at start", "Error 500 at checkout", "Page loads slowly"),
    "account": ("Unable to reset password", "Account locked", "Change the e-mail address", "Close my account"),
    "general": ("Feature request", "Opening hours", "Question about the contract", "Thank you"),
}
PRIORITIES = {"low": 35, "medium": 35, "high": 20, "critical": 10}  # weights
REMEMBERED = 1000  # tickets from which duplicates are drawn


class Message(NamedTuple):
    """A message to send. `fault` is the label of an invalid one."""

    key: bytes
    value: bytes | None
    fault: str | None = None


def draw_tickets(rng: random.Random) -> Iterator[Ticket]:
    """Endless tickets, created now."""
    while True:
        request_type = rng.choice(list(REQUESTS))
        yield {
            "ticket_id": str(UUID(int=rng.getrandbits(128), version=4)),
            "client_id": f"CLIENT_{rng.randint(1000, 9999)}",
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "request": rng.choice(REQUESTS[request_type]),
            "request_type": request_type,
            "priority": rng.choices(list(PRIORITIES), list(PRIORITIES.values()))[0],
        }


def draw_messages(seed: int, faulty: float, duplicates: float) -> Iterator[Message]:
    """Endless messages, of which a share `faulty` is invalid and a share `duplicates` repeats earlier ones."""
    rng = random.Random(seed)
    tickets, faults = draw_tickets(rng), _draw_faults(rng)
    remembered: list[Message] = []
    while True:
        chance = rng.random()
        if chance < duplicates and remembered:
            yield rng.choice(remembered)._replace(fault="duplicate_ticket")
            continue
        ticket = next(tickets)
        key = ticket["ticket_id"].encode()
        if duplicates <= chance < duplicates + faulty:
            label, change = next(faults)
            yield Message(key, change(ticket), label)
            continue
        message = Message(key, encode(ticket))
        if duplicates:
            if len(remembered) == REMEMBERED:
                remembered.pop(rng.randrange(REMEMBERED))
            remembered.append(message)
        yield message


def encode(ticket: Ticket) -> bytes:
    return json.dumps(ticket, ensure_ascii=False).encode()


Fault = Callable[[Ticket], bytes | None]


def _draw_faults(rng: random.Random) -> Iterator[tuple[str, Fault]]:
    """Endless labels and faults: each round has every label once, in random order."""
    while True:
        for label in rng.sample(list(FAULTS), len(FAULTS)):
            yield label, FAULTS[label]


def _set(**fields: object) -> Fault:
    return lambda ticket: json.dumps({**ticket, **fields}).encode()


FAULTS: dict[str, Fault] = {
    "empty_value": lambda _: None,
    "invalid_utf8": lambda ticket: encode(ticket).replace(b'"request": "', b'"request": "\xe9'),
    "byte_order_mark": lambda ticket: b"\xef\xbb\xbf" + encode(ticket),
    "invalid_json": lambda ticket: encode(ticket)[:-1],
    "duplicate_key": lambda ticket: encode(ticket)[:-1] + b', "priority": "low"}',
    "not_an_object": lambda ticket: b"[" + encode(ticket) + b"]",
    "missing_field": lambda ticket: encode({name: text for name, text in ticket.items() if name != "priority"}),
    "wrong_type": _set(request=None),
    "invalid_ticket_id": _set(ticket_id="ticket-42"),
    "invalid_client_id": _set(client_id="CLIENT_12345"),
    "invalid_timestamp": lambda ticket: encode({**ticket, "created_at": ticket["created_at"].removesuffix("Z")}),
    "empty_request": _set(request=" "),
    "request_too_long": _set(request="x" * 501),
    "invalid_text": lambda ticket: encode(ticket).replace(b'"request": "', b'"request": "\\ud800'),
    "unknown_type": _set(request_type="sales"),
    "unknown_priority": _set(priority="urgent"),
}
