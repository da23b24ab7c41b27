"""The contract of a transaction: the valid messages of `shop_transactions`, and the reasons to reject a message.

A message is valid if it has the right types. What is typed and wrong (a negative amount, an unknown status) is loaded,
and dbt rejects it. The JSON Schema is infra/kafka/schemas/shop_transactions.schema.json.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from jobs.strict_json import RejectedError, decode_text, normalise_timestamp, parse_object, read_member

MAX_STATUS = 40  # characters
_MAX_INTEGER = 2**31 - 1
_MAX_AMOUNT = Decimal(10) ** 10  # numeric(12,2)
_CENT = Decimal("0.01")

# Printable ASCII without spaces.
_ID = re.compile(r"[!-~]{1,64}", re.ASCII)
_DECIMAL = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?", re.ASCII)


class Reason(StrEnum):
    """Why a message is in shop_dlq, by precedence."""

    EMPTY_VALUE = "empty_value"
    INVALID_UTF8 = "invalid_utf8"
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TRANSACTION_ID = "invalid_transaction_id"
    OUT_OF_RANGE = "out_of_range"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_TIMESTAMP = "invalid_timestamp"
    INVALID_TEXT = "invalid_text"
    CONFLICTING_TRANSACTION = "conflicting_transaction"
    UNEXPECTED = "unexpected"


class Transaction(NamedTuple):
    """A transaction in one status. Times are RFC 3339 in UTC with microseconds.

    Attributes:
        date: time of the order.
        updated_at: time of the status; that of the order if the message has none.
    """

    transaction_id: str
    client_id: int
    produit_id: int
    montant: Decimal
    date: str
    statut: str
    updated_at: str


def parse_transaction(value: bytes | None) -> Transaction:
    """Parse and normalise one message of `shop_transactions`.

    Raises:
        RejectedError: the first error in the bytes, in the JSON, or in the fields in the contract's order.
    """
    members = parse_object(decode_text(value), is_exact=True)
    return Transaction(
        _check_id(read_member(members, "transaction_id", str, "transaction_id")),
        _read_integer(members, "client_id"),
        _read_integer(members, "produit_id"),
        _read_amount(members),
        date := _read_time(members, "date"),
        _check_status(read_member(members, "statut", str, "statut")),
        _read_time(members, "updated_at") if "updated_at" in members else date,
    )


def _check_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise RejectedError(
            Reason.INVALID_TRANSACTION_ID,
            f"transaction_id {text[:40]!r} is not 1 to 64 printable ASCII characters without spaces",
        )
    return text


def _read_integer(members: dict[str, Any], name: str) -> int:
    number: int = read_member(members, name, int, name)
    if abs(number) > _MAX_INTEGER:
        raise RejectedError(Reason.OUT_OF_RANGE, f"{name} {str(number)[:40]} is not within ±{_MAX_INTEGER:,}")
    return number


def _read_amount(members: dict[str, Any]) -> Decimal:
    """The amount: a JSON number, or a string with a decimal number."""
    value = members.get("montant")
    if type(value) not in (int, Decimal, str):
        read_member(members, "montant", Decimal, "montant")  # raises
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise RejectedError(Reason.INVALID_AMOUNT, f"montant {value[:40]!r} is not a decimal number with a point")
    amount = Decimal(value)  # type: ignore[arg-type]
    if abs(amount) >= _MAX_AMOUNT or amount.quantize(_CENT) != amount:
        raise RejectedError(
            Reason.INVALID_AMOUNT, f"montant {str(value)[:40]} has more than two decimals or more than ten digits"
        )
    return amount.quantize(_CENT) + 0  # turns -0.00 into 0.00


def _read_time(members: dict[str, Any], name: str) -> str:
    return normalise_timestamp(read_member(members, name, str, name), name)


def _check_status(text: str) -> str:
    if len(text) > MAX_STATUS or "\0" in text:
        raise RejectedError(
            Reason.INVALID_TEXT, f"statut {text[:40]!r} has a null or more than {MAX_STATUS} characters"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedError(Reason.INVALID_TEXT, f"statut: character {error.start}: {error.reason}") from error
    return text
