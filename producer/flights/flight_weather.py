"""Airports, and how bad their weather is in each hour: the same in both generators, whatever their seed."""

from __future__ import annotations

import csv
import math
import random
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

AIRPORTS = Path(__file__).resolve().parents[2] / "jobs" / "flights" / "airports.csv"
FRONT_HOURS = 6  # a front comes and goes within about twice this
BAD = 0.7  # from this severity on, flights are delayed


class Airport(NamedTuple):
    """Degrees on WGS 84; `timezone` is a name of the IANA time zone database."""

    iata: str
    lat: float
    lon: float
    timezone: str


def read_airports(path: Path) -> list[Airport]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Airport(row["iata"], float(row["lat"]), float(row["lon"]), row["timezone"]) for row in csv.DictReader(file)
        ]


def severity_at(iata: str, moment: datetime) -> float:
    """How bad the weather is: 0 (calm) to 1 (storm). One hour in five is BAD or worse."""
    hours = moment.timestamp() // 3600
    front, part = divmod(hours, FRONT_HOURS)
    # From one front to the next along a cosine.
    share = (1 - math.cos(math.pi * part / FRONT_HOURS)) / 2
    return _front(iata, int(front)) * (1 - share) + _front(iata, int(front) + 1) * share


@lru_cache(maxsize=10_000)
def _front(iata: str, number: int) -> float:
    share: float = random.Random(f"front/{iata}/{number}").random() ** 1.2
    return share


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
