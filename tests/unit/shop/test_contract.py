"""The contract of shop_transactions: every fault of every field, the schema, and rows for COPY."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobs.settings import ROOT
from jobs.shop import rows as rows_module
from jobs.shop.contract import Reason, Transaction, parse_transaction
from jobs.shop.rows import Refusal, make_rows
from jobs.strict_json import JsonReason, RejectedError
from shop_transactions import CONFLICT, TYPED_FAULTS, UNTYPED_FAULTS, draw_live, encode
from tests.testkit.shop import transaction

SCHEMAS = ROOT / "infra" / "kafka" / "schemas"
SCHEMA = Draft202012Validator(json.loads((SCHEMAS / "shop_transactions.schema.json").read_text()))
DLQ = json.loads((SCHEMAS / "shop_dlq.schema.json").read_text())
# What a schema cannot say: faults of the bytes and of the text, and of the characters of a text.
BEYOND_THE_SCHEMA = {"empty_value", "invalid_utf8", "byte_order_mark", "invalid_json", "duplicate_key", "invalid_text"}
REASON = "__connect.errors.exception.class.name"


def dump(content: Any) -> bytes:
    return json.dumps(content).encode()


def reason_of(value: bytes | None) -> str:
    with pytest.raises(RejectedError) as caught:
        parse_transaction(value)
    assert str(caught.value), "every reject says why"
    return caught.value.reason


def parse_rows(values: list[bytes | None]) -> tuple[list[list[str]], list[str]]:
    """The cells of each row, and the reasons of the refusals."""
    rows = make_rows(range(len(values)), values)
    lines = rows.text.decode().splitlines()
    assert len(lines) == rows.count
    return [line.split("\t") for line in lines], [refusal.reason for refusal in rows.refusals]


def unescape(cell: str) -> str:
    """As PostgreSQL reads a cell."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), cell)


def test_a_valid_transaction_is_normalised() -> None:
    parsed = parse_transaction(
        b'{"transaction_id": "TXN1", "client_id": 7, "produit_id": 0, "montant": 12.5, "extra": {"deep": [1.5]}, '
        b'"date": "2026-01-05T09:15:30+01:00", "statut": "pending"}'
    )
    time = "2026-01-05T08:15:30.000000Z"
    assert parsed == Transaction("TXN1", 7, 0, Decimal("12.50"), time, "pending", time)
    assert str(parsed.montant) == "12.50"


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("0.1", "0.10"), ("1234567890.12", "1234567890.12"), ("-3", "-3.00"), ("1e2", "100.00"), ("-0.00", "0.00"),
        ('"12.30"', "12.30"), ('"0012"', "12.00"), ("9999999999.990", "9999999999.99"), ("1.10E1", "11.00"),
    ],
)  # fmt: skip
def test_amounts_are_exact(written: str, amount: str) -> None:
    value = dump(transaction(montant="AMOUNT")).replace(b'"AMOUNT"', written.encode())
    assert str(parse_transaction(value).montant) == amount
    ((cells,), _) = parse_rows([value])
    assert Decimal(cells[4]) == Decimal(amount)


@pytest.mark.parametrize(
    "written",
    [
        '"12,50"', "12.345", "10000000000", "1e400", f"1e{10**20}", f"1e-{10**20}", '"1e2"', '"NaN"', '""', '" 1"',
        '"+1"', "0.001", '"١"',
    ],
)  # fmt: skip
def test_other_amounts_are_rejected(written: str) -> None:
    assert reason_of(dump(transaction(montant="X")).replace(b'"X"', written.encode())) == Reason.INVALID_AMOUNT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transaction_id": ""}, Reason.INVALID_TRANSACTION_ID),
        ({"transaction_id": "x" * 65}, Reason.INVALID_TRANSACTION_ID),
        ({"transaction_id": "é"}, Reason.INVALID_TRANSACTION_ID),
        ({"transaction_id": "a\n"}, Reason.INVALID_TRANSACTION_ID),
        ({"transaction_id": 1}, Reason.WRONG_TYPE),
        ({"client_id": "7"}, Reason.WRONG_TYPE),
        ({"client_id": 7.0}, Reason.WRONG_TYPE),
        ({"client_id": True}, Reason.WRONG_TYPE),
        ({"client_id": 2**31}, Reason.OUT_OF_RANGE),
        ({"produit_id": -(10**5000)}, Reason.WRONG_TYPE),
        ({"montant": None}, Reason.WRONG_TYPE),
        ({"montant": True}, Reason.WRONG_TYPE),
        ({"date": "2026-02-30T00:00:00Z"}, Reason.INVALID_TIMESTAMP),
        ({"date": "2026-02-03T00:00:00"}, Reason.INVALID_TIMESTAMP),
        ({"date": "0000-02-03T00:00:00Z"}, Reason.INVALID_TIMESTAMP),
        ({"updated_at": None}, Reason.WRONG_TYPE),
        ({"updated_at": "2026-13-01T00:00:00Z"}, Reason.INVALID_TIMESTAMP),
        ({"statut": None}, Reason.WRONG_TYPE),
        ({"statut": "a\0"}, Reason.INVALID_TEXT),
        ({"statut": "\ud800"}, Reason.INVALID_TEXT),
        ({"statut": "x" * 41}, Reason.INVALID_TEXT),
    ],
)
def test_an_invalid_field_gives_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    content = transaction(**changes)
    huge = content["produit_id"] if abs(content["produit_id"]) > 10**20 else None
    value = dump(content | ({"produit_id": "HUGE"} if huge else {}))
    value = value.replace(b'"HUGE"', b"-1" + b"0" * 5000)
    assert reason_of(value) == reason
    assert parse_rows([value]) == ([], [reason])


@pytest.mark.parametrize("name", ["transaction_id", "client_id", "produit_id", "montant", "date", "statut"])
def test_a_missing_field_is_rejected(name: str) -> None:
    content = transaction()
    del content[name]
    assert reason_of(dump(content)) == Reason.MISSING_FIELD


@pytest.mark.parametrize("label", UNTYPED_FAULTS)
def test_each_untyped_fault_of_the_generator_gives_its_reason(label: str) -> None:
    value = UNTYPED_FAULTS[label](next(draw_live(7, 0)))
    reason = label.partition("/")[0]
    assert reason_of(value) == reason
    assert parse_rows([value]) == ([], [reason])
    if reason not in BEYOND_THE_SCHEMA and label != "invalid_amount/digits":
        assert not SCHEMA.is_valid(json.loads(value or b""))


@pytest.mark.parametrize("label", TYPED_FAULTS)
def test_what_is_typed_and_wrong_is_valid(label: str) -> None:
    value = encode(TYPED_FAULTS[label](next(draw_live(7, 0))))
    parse_transaction(value)
    SCHEMA.validate(json.loads(value))


def test_code_generator_and_schemas_have_the_same_fields_and_reasons() -> None:
    assert set(SCHEMA.schema["properties"]) == set(Transaction._fields)
    assert set(SCHEMA.schema["required"]) == {*Transaction._fields} - {"updated_at"}
    assert DLQ["properties"][REASON]["enum"] == [str(reason) for reason in Reason]
    assert {label.partition("/")[0] for label in UNTYPED_FAULTS} | {CONFLICT} == {*Reason} - {Reason.UNEXPECTED}
    assert {*JsonReason} <= {*Reason}


def test_usual_messages_give_the_same_rows_as_parsed_ones() -> None:
    """The pattern for usual messages is a short cut. Change usual messages at random: both ways must agree."""
    rng = random.Random(7)
    alphabet = b'0123456789.,:{}"\\- TZezE\xc3\n'
    for drawn in islice(draw_live(7, 0.1), 3000):
        value = bytearray(encode(drawn))
        for _ in range(rng.randint(0, 2)):
            position = rng.randrange(len(value))
            value[position : position + rng.randint(0, 1)] = bytes([rng.choice(alphabet)])[: rng.randint(0, 1)]
        lines, reasons = parse_rows([bytes(value)])
        if reasons:
            assert (lines, reasons) == ([], [reason_of(bytes(value))]), value
            continue
        expected = parse_transaction(bytes(value))
        ((_, identifier, client, product, amount, date, status, updated_at),) = lines
        numbers = (unescape(identifier), int(client), int(product), Decimal(amount), unescape(status))
        assert numbers == (*expected[:3], expected.montant, expected.statut), value
        for written, time in ((date, expected.date), (updated_at, expected.updated_at)):
            seconds, _, digits = written.removesuffix("Z").partition(".")
            assert f"{seconds}.{digits:0<6}Z" == time


def test_texts_are_escaped_for_copy() -> None:
    ((cells,), reasons) = parse_rows([dump(transaction(transaction_id="a\\b", statut="x\ty\\N\nz"))])
    assert cells[1] == r"a\x5cb"
    assert cells[6] == r"x\x09y\x5cN\x0az"
    assert reasons == []


def test_an_unexpected_error_refuses_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: bytes | None) -> Transaction:
        raise ZeroDivisionError("why")

    monkeypatch.setattr(rows_module, "parse_transaction", fail)
    rows = make_rows([7, 8], [encode(next(draw_live(7, 0))), b"{}"])
    assert rows.count == 1
    assert rows.refusals == [Refusal(8, Reason.UNEXPECTED, "ZeroDivisionError: why")]
