"""Airports: where they are, and the UTC of their local times. The file is airports.csv beside this module."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

FILE = Path(__file__).with_name("airports.csv")


class Airport(msgspec.Struct, frozen=True):
    """An airport. Degrees on WGS 84; `timezone` is a name of the IANA time zone database."""

    iata: str
    name: str
    city: str
    country: str
    lat: float
    lon: float
    timezone: str


def _read() -> dict[str, Airport]:
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = [msgspec.convert(row, Airport, strict=False) for row in csv.DictReader(file)]
    return {row.iata: row for row in rows}


AIRPORTS = _read()


@cache
def _find_zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def to_utc(local: datetime, iata: str) -> tuple[datetime, bool]:
    """The UTC of a local time without an offset, and whether that local time occurs twice.

    Of the two, at the end of summer time, the earlier counts. A local time that the start of summer time skips is read
    with the offset of before.
    """
    return convert_local(local, AIRPORTS[iata].timezone)


def convert_local(local: datetime, timezone: str) -> tuple[datetime, bool]:
    """The same for a time zone of the IANA database.

    Raises:
        OverflowError: the time is outside the years 1 to 9999 in UTC.
    """
    zone = _find_zone(timezone)
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first, first < second
