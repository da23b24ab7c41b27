"""The log of the shop's application: JSON lines in a file that is rotated by rename."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from logging import INFO, LogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path

_PATHS = ("/api/products", "/api/orders", "/api/users")
_MAX_BYTES, _KEPT_FILES = 10 * 2**20, 5
_REMEMBERED = 100  # lines that may be repeated

Members = dict[str, object]


def _omit(name: str) -> Callable[[Members], str]:
    return lambda line: json.dumps({key: value for key, value in line.items() if key != name})


# By the reason of the rejection.
FAULTS: dict[str, Callable[[Members], str]] = {
    "not_json": lambda line: f"{line['timestamp']} {line['level']} {line['message']}",
    "not_an_object": lambda line: json.dumps([line]),
    "no_time": _omit("timestamp"),
    "invalid_time": lambda line: json.dumps(line | {"timestamp": str(line["timestamp"]).removesuffix("Z")}),
    "refused": lambda line: json.dumps(line | {"status_code": "OK"}),
}


class ApplicationLog:
    """Writes a line for each request of the application.

    Args:
        is_incident: a third of the requests fail and they take up to 500 ms, instead of 2 % and about 120 ms.
        faulty: the share of lines that are not valid events, besides the others.
        duplicates: the share of lines that repeat an earlier one.
    """

    def __init__(self, path: Path, seed: int, *, is_incident: bool, faulty: float = 0, duplicates: float = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, encoding="utf-8")
        self._rng = random.Random(f"{seed}/logs")
        self._is_incident = is_incident
        self._faulty = faulty
        self._duplicates = duplicates
        self._labels: list[str] = []
        self._remembered: list[str] = []

    def write(self) -> None:
        """Write the line of one request; before it sometimes a faulty line or an earlier one."""
        chance = self._rng.random()
        if self._remembered and chance < self._duplicates:
            self._emit(self._rng.choice(self._remembered))
        elif chance < self._duplicates + self._faulty:
            self._emit(FAULTS[self._draw_label()](self._draw()))
        members = self._draw()
        if self._rng.random() < self._faulty:
            members["host"] = "a"  # valid, though the Elastic Common Schema has an object of that name
        line = json.dumps(members)
        self._emit(line)
        self._remembered = [*self._remembered, line][-_REMEMBERED:]

    def close(self) -> None:
        self._handler.close()

    def _emit(self, line: str) -> None:
        self._handler.emit(LogRecord("shop", INFO, "", 0, line, None, None))

    def _draw_label(self) -> str:
        """Each round has every fault once, in random order."""
        self._labels = self._labels or self._rng.sample(list(FAULTS), len(FAULTS))
        return self._labels.pop()

    def _draw(self) -> Members:
        rng = self._rng
        level = rng.choices(("INFO", "WARNING", "ERROR"), (1, 1, 1) if self._is_incident else (93, 5, 2))[0]
        status = {"INFO": 200, "WARNING": 404, "ERROR": 500}[level]
        response_time = rng.randint(10, 500) if self._is_incident else min(500, round(rng.lognormvariate(4.7, 0.45)))
        return {
            "log_id": str(uuid.uuid4()),  # not from the seed: a restart must not repeat it
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "message": f"API request {rng.choice(_PATHS)}",
            "response_time": response_time,
            "status_code": status,
        }
