"""Observations as JSON lines, one object per line: what producer/flights prints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO

from jobs.flights.contract import MAKERS, Collected, Kind, Origin, format_time, make_reject
from jobs.flights.sources.lines import Line, read_lines
from jobs.strict_json import RejectedError, decode_text, parse_object


def read_json_lines(stream: IO[bytes], kind: Kind, source: str) -> Iterator[Collected]:
    """Each line as an observation or a reject, as soon as it arrives.

    Args:
        stream: lines in UTF-8, each an object with the fields of the kind's content.
        source: name of the source in what it yields.
    """
    for line in read_lines(stream):
        origin = Origin(source, f"line {line.number}", format_time(datetime.now(UTC)))
        try:
            yield MAKERS[kind](_parse(line), origin)
        except RejectedError as error:
            yield make_reject(kind, origin, error, _strip(line.value))


def _parse(line: Line) -> dict[str, object]:
    line.check()
    content = parse_object(decode_text(_strip(line.value)), is_exact=True)
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in content.items()}


def _strip(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")
