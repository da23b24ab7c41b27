"""The contract of client_tickets: every fault of every field, and the schema."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from jobs.settings import ROOT
from jobs.strict_json import JsonReason, RejectedError
from jobs.tickets.contract import PRIORITIES, TEAMS, Reason, parse_ticket
from jobs.tickets.parse import ADDED, parse_batches
from tests.testkit.tickets import ticket
from ticket_messages import FAULTS

SCHEMA = Draft202012Validator(
    json.loads((ROOT / "infra" / "kafka" / "schemas" / "client_tickets.schema.json").read_text())
)
# What a schema cannot say: faults of the bytes and of the text, and of the characters of a text.
BEYOND_THE_SCHEMA = {"empty_value", "invalid_utf8", "byte_order_mark", "invalid_json", "duplicate_key", "invalid_text"}


def encode(content: Any) -> bytes:
    return json.dumps(content).encode()


def reason_of(value: bytes | None) -> str:
    with pytest.raises(RejectedError) as caught:
        parse_ticket(value)
    assert str(caught.value), "every reject says why"
    return caught.value.reason


def test_a_valid_ticket_is_normalised() -> None:
    parsed = parse_ticket(
        encode(ticket(ticket_id="550E8400-E29B-41D4-A716-446655440000", created_at="2026-01-05T09:15:30+01:00"))
    )
    assert parsed.ticket_id == "550e8400-e29b-41d4-a716-446655440000"
    assert parsed.created_at.isoformat() == "2026-01-05T08:15:30+00:00"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_id": "CLIENT_123"}, Reason.INVALID_CLIENT_ID),
        ({"client_id": "CLIENT_12345"}, Reason.INVALID_CLIENT_ID),
        ({"client_id": "client_1234"}, Reason.INVALID_CLIENT_ID),
        ({"client_id": "CLIENT_١٢٣٤"}, Reason.INVALID_CLIENT_ID),
        ({"client_id": "CLIENT_1234\n"}, Reason.INVALID_CLIENT_ID),
        ({"request": ""}, Reason.EMPTY_REQUEST),
        ({"request": " \t\n"}, Reason.EMPTY_REQUEST),
        ({"request": "x" * 501}, Reason.REQUEST_TOO_LONG),
        ({"request": None}, Reason.WRONG_TYPE),
        ({"request": 42}, Reason.WRONG_TYPE),
        ({"request_type": "Billing"}, Reason.UNKNOWN_TYPE),
        ({"priority": "urgent"}, Reason.UNKNOWN_PRIORITY),
        ({"created_at": "2026-01-05T08:15:30"}, Reason.INVALID_TIMESTAMP),
        ({"created_at": "2026-02-30T08:15:30Z"}, Reason.INVALID_TIMESTAMP),
        ({"ticket_id": "42"}, Reason.INVALID_TICKET_ID),
    ],
)
def test_an_invalid_field_gives_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    assert reason_of(encode(ticket(**changes))) == reason


@pytest.mark.parametrize("name", ticket())
def test_a_missing_field_is_rejected(name: str) -> None:
    content = ticket()
    del content[name]
    assert reason_of(encode(content)) == Reason.MISSING_FIELD


@pytest.mark.parametrize("character", ["x", "é", "😀"])
def test_the_length_of_a_request_counts_characters(character: str) -> None:
    assert parse_ticket(encode(ticket(request=character * 500))).request == character * 500
    assert reason_of(encode(ticket(request=character * 501))) == Reason.REQUEST_TOO_LONG


def test_unknown_fields_are_dropped() -> None:
    assert parse_ticket(encode(ticket(colour={"deep": [1]}))).priority == "high"


@pytest.mark.parametrize("label", FAULTS)
def test_each_fault_of_the_producer_gives_its_reason(label: str) -> None:
    value = FAULTS[label](ticket())
    assert reason_of(value) == label
    if label not in BEYOND_THE_SCHEMA:
        assert not SCHEMA.is_valid(json.loads(value or b""))


def test_code_producer_and_schema_have_the_same_fields_and_values() -> None:
    properties = SCHEMA.schema["properties"]
    assert set(properties) == set(SCHEMA.schema["required"]) == set(ticket())
    assert properties["request_type"]["enum"] == list(TEAMS)
    assert properties["priority"]["enum"] == list(PRIORITIES)
    assert {*FAULTS, Reason.DUPLICATE_TICKET} == {*Reason}
    assert {*JsonReason} <= {*Reason}
    SCHEMA.validate(ticket(colour="red"))


def test_a_batch_keeps_every_message_in_its_row() -> None:
    values = [encode(ticket()), None, b"\xff", encode(ticket(request="x" * 501))]
    (parsed,) = parse_batches(
        iter([pa.record_batch({"offset": [7, 8, 9, 10], "value": pa.array(values, pa.binary())})])
    )
    rows = parsed.to_pylist()
    assert parsed.schema.names == ["offset", "value", *ADDED.names]
    assert [(row["offset"], row["reason"]) for row in rows] == [
        (7, None), (8, "empty_value"), (9, "invalid_utf8"), (10, "request_too_long"),
    ]  # fmt: skip
    assert [row["value"] for row in rows] == values
    assert [row["text"] for row in rows][:3] == [None, None, "�"]


def test_an_empty_batch_has_all_columns() -> None:
    (parsed,) = parse_batches(iter([pa.record_batch({"value": pa.array([], pa.binary())})]))
    assert parsed.schema.names == ["value", *ADDED.names]
    assert parsed.num_rows == 0
