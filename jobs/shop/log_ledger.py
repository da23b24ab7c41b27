"""The log's part of the ledger: every line of the log files is a document, a duplicate, rejected or pending.

Each line is looked up in Elasticsearch by its id. The shipper's position only tells pending lines from lost ones.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from elasticsearch import Elasticsearch
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from jobs.clients import Systems
from jobs.errors import ServiceUnavailableError
from jobs.ledger.verdict import Figure
from jobs.shop.log_files import (
    decode_line,
    find_offset,
    has_unshipped_lines,
    list_files,
    read_lines,
    read_sincedb,
)
from jobs.shop.log_retention import name_oldest_kept_index
from jobs.shop.vertical import ShopSettings
from jobs.sinks.elasticsearch import translate_errors

_BATCH = 500
_POLL_S = 0.2
# As in infra/logstash/pipeline/app-logs.conf.
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# In Docker the files are in a volume.
NO_LOGS = (
    "There are no log files here. In Docker, Logstash counts its events: "
    "docker compose exec logstash curl -s localhost:9600/_node/stats/events"
)


class Logs(msgspec.Struct, frozen=True):
    """Counts of the lines in the log files that exist.

    Attributes:
        documents: lines in app-logs-*.
        duplicates: lines that repeat an id, or as a whole.
        rejected_by_reason: lines in rejected-app-logs.
        pending: lines behind the shipper's position.
        expired: lines of days whose index was deleted.
        lost: lines before the position that are nowhere.
        doubled: lines in both indices.
    """

    lines: int
    documents: int
    duplicates: int
    rejected_by_reason: dict[str, int]
    pending: int
    expired: int
    lost: int
    doubled: int

    @property
    def rejected(self) -> int:
        return sum(self.rejected_by_reason.values())

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure("log lines", self.lines, "log files"),
            Figure("  documents", self.documents, "Elasticsearch"),
            Figure("  repeated", self.duplicates, "Elasticsearch"),
            Figure("  rejected", self.rejected, "Elasticsearch"),
            *(
                Figure(f"    {reason}", count, "Elasticsearch")
                for reason, count in sorted(self.rejected_by_reason.items())
            ),
            Figure("  not shipped", self.pending, "log files"),
            *([Figure("  expired", self.expired, "log files")] if self.expired else []),
        ]

    @property
    def note(self) -> str:
        kept = self.documents + self.duplicates + self.rejected + self.pending + self.expired
        sign = "=" if self.lines == kept else "≠"
        expired = f" + expired {self.expired:,}" if self.expired else ""
        return (
            f"log lines {self.lines:,} {sign} documents {self.documents:,} + duplicates {self.duplicates:,} + "
            f"rejected {self.rejected:,} + pending {self.pending:,}{expired}"
        )


class Line(msgspec.Struct, frozen=True):
    """A line, the id and the index that it would have, and whether the shipper has passed it."""

    text: str
    fingerprint: str
    id: str
    index: str
    is_passed: bool


def count_logs(systems: Systems[ShopSettings]) -> Logs | None:
    """Look up every line of the log files; None if there are no files."""
    settings, client = systems.settings, systems.elasticsearch
    if not list_files(settings.shop_log_files):
        return None
    oldest_kept = name_oldest_kept_index()
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    seen: set[bytes] = set()
    lines = _read_lines(settings)
    with translate_errors(client, "looking up log lines"):
        while batch := list(islice(lines, _BATCH)):
            for line, document, rejection in _look_up(client, settings, batch):
                counts["lines"] += 1
                is_document = document is not None and document["event"]["original"] == line.text
                if not is_document and rejection is None:
                    if document is not None:
                        counts["duplicates"] += 1
                    elif not line.is_passed:
                        counts["pending"] += 1
                    else:
                        counts["expired" if line.index and line.index < oldest_kept else "lost"] += 1
                    continue
                counts["doubled"] += is_document and rejection is not None
                key = _digest(f"{line.index} {line.id}" if is_document else line.fingerprint)
                if key in seen:
                    counts["duplicates"] += 1
                elif is_document or rejection is None:
                    counts["documents"] += 1
                else:
                    reasons[rejection["error"]["type"]] += 1
                seen.add(key)
    names = [name for name in Logs.__struct_fields__ if name != "rejected_by_reason"]
    return Logs(**{name: counts[name] for name in names}, rejected_by_reason=dict(reasons))


def wait_until_shipped(settings: ShopSettings, timeout_s: float) -> None:
    """Wait until the shipper has passed all lines of the log files.

    Raises:
        ServiceUnavailableError: it has not within `timeout_s` seconds.
    """
    attempts = Retrying(retry=retry_if_result(bool), stop=stop_after_delay(timeout_s), wait=wait_fixed(_POLL_S))
    try:
        attempts(has_unshipped_lines, settings.shop_log_files, settings.shop_sincedb)
    except RetryError as error:
        raise ServiceUnavailableError(
            f"Log lines in {settings.shop_logs} were not shipped within {timeout_s:.0f} s. Is the service `logstash` "
            "running (make local-status)? Its log: .venv/bin/python -m infra.local logs logstash"
        ) from error


def _read_lines(settings: ShopSettings) -> Iterator[Line]:
    positions = read_sincedb(settings.shop_sincedb)  # first, so that what follows it is at most more than it says
    with ExitStack() as stack:
        opened = {}
        for path in list_files(settings.shop_log_files):
            with suppress(FileNotFoundError):  # rotated away meanwhile
                file = stack.enter_context(path.open("rb"))
                opened[os.fstat(file.fileno()).st_ino] = file
        for file in opened.values():
            offset, passed = 0, find_offset(file, positions)
            for line in read_lines(file, 0):
                yield parse_line(line, is_passed=offset < passed)
                offset += len(line)


def parse_line(line: bytes, *, is_passed: bool) -> Line:
    """Where infra/logstash/pipeline/app-logs.conf puts a line, if it is valid."""
    text = decode_line(line)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    try:
        content = msgspec.json.decode(text)
        day = datetime.fromisoformat(content["timestamp"]).astimezone(UTC)
    except (msgspec.DecodeError, RecursionError, TypeError, KeyError, ValueError, OverflowError):
        # Not an event: it can only be rejected.
        return Line(text, fingerprint, fingerprint, "", is_passed)
    log_id = content.get("log_id")
    is_valid = isinstance(log_id, str) and _ID.fullmatch(log_id) is not None
    return Line(text, fingerprint, log_id if is_valid else fingerprint, f"app-logs-{day:%Y.%m.%d}", is_passed)


def _look_up(
    client: Elasticsearch, settings: ShopSettings, lines: list[Line]
) -> Iterator[tuple[Line, dict[str, Any] | None, dict[str, Any] | None]]:
    """Each line with the document of its id, and with its rejection; None for what does not exist."""
    rejected = settings.shop_rejected_logs_index
    places = [(line.index or rejected, line.id, "event.original") for line in lines]
    places += [(rejected, line.fingerprint, "error.type") for line in lines]
    # Realtime: it sees what was written a moment ago.
    wanted = [{"_index": index, "_id": id_, "_source": [field]} for index, id_, field in places]
    found = [answer.get("_source") for answer in client.mget(docs=wanted)["docs"]]
    for number, line in enumerate(lines):
        yield line, found[number] if line.index else None, found[number + len(lines)]


def _digest(text: str) -> bytes:
    """Short, because there is one for each line."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
