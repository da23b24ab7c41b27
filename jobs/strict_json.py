"""Strict JSON messages: what the contracts of all verticals have in common.

A message is one JSON object in UTF-8 without a byte-order mark, with no key twice and nothing after the object.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, NoReturn


class JsonReason(StrEnum):
    """Why a message is not a valid object with fields of the right types. Each vertical's reasons include these."""

    EMPTY_VALUE = "empty_value"
    INVALID_UTF8 = "invalid_utf8"
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TIMESTAMP = "invalid_timestamp"


# RFC 3339 (section 5.6) with at most microseconds. Python's datetime has no leap seconds, so :60 is rejected.
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", re.ASCII)


class RejectedError(Exception):
    """A message violates the contract. The arguments are a reason for programs and a text for people.

    Parts of the message are quoted with !r, because a text with a lone surrogate cannot be sent.
    """

    @property
    def reason(self) -> str:
        return self.args[0]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.args[1]  # type: ignore[no-any-return]


def decode_text(value: bytes | None) -> str:
    """Decode the value of a message.

    Raises:
        RejectedError: no value, a byte-order mark, or not UTF-8.
    """
    if not value:
        raise RejectedError(JsonReason.EMPTY_VALUE, "the message has no value")
    if value.startswith(b"\xef\xbb\xbf"):
        raise RejectedError(JsonReason.BYTE_ORDER_MARK, "the message starts with a byte-order mark")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedError(JsonReason.INVALID_UTF8, f"byte {error.start}: {error.reason}") from error


def parse_object(text: str, *, is_exact: bool = False) -> dict[str, Any]:
    """Parse a JSON object. Numbers become floats.

    Args:
        is_exact: numbers become Decimals; those without a point or an exponent become ints.

    Raises:
        RejectedError: not JSON, a key twice at any level, or not an object.
    """
    try:
        parsed = _decode_exactly(text) if is_exact else _decode(text)
    except ValueError as error:
        raise RejectedError(JsonReason.INVALID_JSON, str(error)) from error
    except RecursionError as error:
        raise RejectedError(JsonReason.INVALID_JSON, "nested too deeply") from error
    if not isinstance(parsed, dict):
        raise RejectedError(JsonReason.NOT_AN_OBJECT, f"the message is a {_name_type(parsed)}, not an object")
    return parsed


def read_member(members: dict[str, Any], name: str, kind: type, path: str) -> Any:
    """The member of an object that must be of a type: str, float, int, dict.

    Args:
        path: the name of the member in error texts.

    Raises:
        RejectedError: it is missing, or of another type.
    """
    value = members.get(name)
    if type(value) is kind:
        return value
    if name not in members:
        raise RejectedError(JsonReason.MISSING_FIELD, f"{path} is missing")
    raise RejectedError(JsonReason.WRONG_TYPE, f"{path} is a {_name_type(value)}, not a {_JSON_TYPES[kind]}")


_JSON_TYPES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    float: "number",
    Decimal: "number",
    int: "whole number",
    bool: "boolean",
}


def _name_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), "null")


def normalise_timestamp(text: str, path: str = "ts") -> str:
    """Return an RFC 3339 time in UTC with six digits of a second.

    Raises:
        RejectedError: not an RFC 3339 time, no offset, more than six digits of a second, or outside the years 0001–9999
            in UTC.
    """
    if not _TIMESTAMP.fullmatch(text):
        raise RejectedError(
            JsonReason.INVALID_TIMESTAMP,
            f"{path} {text[:40]!r} is not RFC 3339 with an offset and at most microseconds",
        )
    try:
        moment = datetime.fromisoformat(text.upper())
        if text.endswith("Z") and text[10] == "T" and len(text) == len("YYYY-MM-DDTHH:MM:SS.ffffffZ"):
            return text
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RejectedError(JsonReason.INVALID_TIMESTAMP, f"{path} {text!r}: {error}") from error
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _check_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RejectedError(JsonReason.DUPLICATE_KEY, f"key {name[:40]!r} occurs more than once")
            seen.add(name)
    return members


def _parse_integer(integer: str) -> float:
    # The sum turns -0.0 into 0.0, which is what msgspec returns for -0.
    return float(integer) + 0.0


def _parse_exactly(integer: str) -> int | Decimal:
    # Python refuses to make an int of more than 4,300 digits.
    return int(integer) if len(integer) < 1_000 else Decimal(integer)


def _parse_decimal(number: str) -> Decimal:
    try:
        return Decimal(number)
    except InvalidOperation:  # the exponent has more than 18 digits
        return Decimal("Infinity")


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Parse integers as floats: Python raises an error for very long ones.
_decode = json.JSONDecoder(
    object_pairs_hook=_check_unique, parse_int=_parse_integer, parse_float=float, parse_constant=_reject_constant
).decode
_decode_exactly = json.JSONDecoder(
    object_pairs_hook=_check_unique,
    parse_int=_parse_exactly,
    parse_float=_parse_decimal,
    parse_constant=_reject_constant,
).decode
