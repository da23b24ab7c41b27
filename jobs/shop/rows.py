"""Turn messages into rows for COPY, and into refusals."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import msgspec

from jobs.shop.contract import Reason, Transaction, parse_transaction
from jobs.strict_json import RejectedError

log = logging.getLogger(__name__)

# A message as programs usually write it: the fields in this order, numbers of ordinary size and times in UTC. Its parts
# go to PostgreSQL as they are, which is four times as fast as to parse the JSON. All others are parsed.
_INTEGER = rb"(-?[1-9]\d{0,8}|0)"
# Days that exist in every year.
_DAY = rb"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
_TIME = rb"((?!0000)\d{4}-" + _DAY + rb"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?Z)"
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
            row = (offset, identifier, client, product, amount, date, status, updated_at or date)
            lines.append(b"%d\t%b\t%b\t%b\t%b\t%b\t%b\t%b" % row)
            continue
        try:
            lines.append(_escape_row(offset, parse_transaction(value)))
        except RejectedError as error:
            refusals.append(Refusal(offset, error.reason, str(error)))
        except Exception as error:  # one bad message never stops a load
            log.exception("Cannot parse the message at offset %d", offset)
            refusals.append(Refusal(offset, Reason.UNEXPECTED, f"{type(error).__name__}: {error}"))
    return Rows(len(lines), b"\n".join([*lines, b""]), refusals)


def _escape_row(offset: int, transaction: Transaction) -> bytes:
    texts = (str(offset), *map(str, transaction))
    return "\t".join(_ESCAPED.sub(lambda match: f"\\x{ord(match[0]):02x}", text) for text in texts).encode()
