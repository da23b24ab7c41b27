"""Numbers in texts. What is not a number stays a text, which the contract rejects with the name of the field."""

from __future__ import annotations

import re

# JSON's numbers. Python's float() also takes "1_000", "nan" and "infinity".
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d{1,30})?([eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)


def read_number(text: str) -> float | str:
    return float(text) if _NUMBER.fullmatch(text) else text


def read_integer(text: str) -> int | str:
    return int(text) if _INTEGER.fullmatch(text) else text
