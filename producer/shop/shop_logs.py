"""The log of the shop's application: JSON lines in a file that is rotated by rename."""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime
from logging import INFO, LogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path

_PATHS = ("/api/products", "/api/orders", "/api/users")
_MAX_BYTES, _KEPT_FILES = 10 * 2**20, 5


class ApplicationLog:
    """Writes a line for each request of the application.

    Args:
        is_incident: a third of the requests fail and they take up to 500 ms, instead of 2 % and about 120 ms.
    """

    def __init__(self, path: Path, seed: int, *, is_incident: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, encoding="utf-8")
        self._rng = random.Random(f"{seed}/logs")
        self._is_incident = is_incident

    def write(self) -> None:
        line = json.dumps(self._draw())
        self._handler.emit(LogRecord("shop", INFO, "", 0, line, None, None))

    def close(self) -> None:
        self._handler.close()

    def _draw(self) -> dict[str, object]:
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
