"""Turn messages into rows for COPY, and into refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

from jobs.shop.contract import Transaction, parse_transaction
from jobs.strict_json import RejectedError

# A message as programs usually write it: the fields in this order, numbers of ordinary size and times in UTC. Its parts
# go to PostgreSQL as they are, which is three times as fast as to parse the JSON. All others are parsed.
_TIME = rb"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?Z)"
_INTEGER = rb"(-?[1-9]\d{0,8}|0)"
_USUAL = re.compile(
    rb'\{"transaction_id": ?"([!#-\[\]-~]{1,64})", ?"client_id": ?' + _INTEGER + rb', ?"produit_id": ?' + _INTEGER
    + rb', ?"montant": ?((?:-?[1-9]\d{0,9}|0)(?:\.\d{1,2})?), ?"date": ?"' + _TIME
    + rb'", ?"statut": ?"([A-Za-z_]{1,40})"(?:, ?"updated_at": ?"' + _TIME + rb'")?\}'
)  # fmt: skip
_ESCAPED = re.compile(r"[\\\t\n\r\x0b\x08\x0c]")


class Refusal(msgspec.Struct, frozen=True):
    """A message that is not loaded. `reason` is for programs, `detail` for people."""

    offset: int
    reason: str
    detail: str


class Rows(msgspec.Struct, frozen=True):
    """Messages of one partition, by column order of `jobs.shop.load`, in the text format of COPY.

    `count` is the number of rows in `text`.
    """

    count: int
    text: bytes
    refusals: list[Refusal]


def make_rows(offsets: Sequence[int], values: Sequence[bytes | None]) -> Rows:
    """Make a row of each message that the contract allows, and a refusal of each other one."""
    lines: list[bytes] = []
    refusals: list[Refusal] = []
    match = _USUAL.fullmatch
    for offset, value in zip(offsets, values, strict=True):
        usual = match(value) if value else None
        if usual:
            identifier, client, product, amount, date, status, updated_at = usual.groups()
            if _exists(date) and (updated_at is None or _exists(updated_at)):
                parts = (b"%d" % offset, identifier, client, product, amount, date, status, updated_at or date)
                lines.append(b"\t".join(parts))
                continue
        try:
            lines.append(_escape_row(offset, parse_transaction(value)))
        except RejectedError as error:
            refusals.append(Refusal(offset, error.reason, str(error)))
    return Rows(len(lines), b"\n".join([*lines, b""]), refusals)


def _exists(time: bytes) -> bool:
    """Whether the day exists: the pattern allows 30 February and the year 0."""
    if time[8:10] < b"29" and time[:4] != b"0000" and b"00" < time[5:7] < b"13" and time[8:10] > b"00":
        return True
    try:
        datetime.fromisoformat(time.decode())
    except ValueError:
        return False
    return True


def _escape_row(offset: int, transaction: Transaction) -> bytes:
    texts = (str(offset), *map(str, transaction))
    return "\t".join(_ESCAPED.sub(lambda match: f"\\x{ord(match[0]):02x}", text) for text in texts).encode()
