"""The shop's log: lines, and the shipper as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from elasticsearch import Elasticsearch

from infra.local.runner import ports
from infra.local.services.logstash import SERVICE
from infra.local.services.logstash.__main__ import run
from jobs.clients import Systems
from jobs.settings import ROOT
from jobs.shop.log_ledger import Logs, count_logs, wait_until_shipped
from tests.testkit.wait import DEADLINE_S

PIPELINES = ROOT / "infra" / "logstash"
TIME = "2026-11-29T10:00:00.123Z"


def log_line(**changes: Any) -> dict[str, Any]:
    """The members of a valid line with a new id."""
    return {
        "log_id": str(uuid4()),
        "timestamp": TIME,
        "level": "INFO",
        "message": "API request /api/orders",
        "response_time": 120,
        "status_code": 200,
    } | changes


def free_port() -> int:
    (port,) = ports.find_free(1)
    return port


@dataclass
class Shipping:
    """A folder of log files, the shipper with its position, and Elasticsearch.

    Attributes:
        settings: with a state folder of its own.
    """

    settings: Any
    client: Elasticsearch

    @property
    def log(self) -> Path:
        self.settings.shop_logs.mkdir(exist_ok=True)
        path: Path = self.settings.shop_log
        return path

    def write(self, *lines: dict[str, Any] | str | bytes) -> None:
        """Append lines to app.log."""
        with self.log.open("ab") as file:
            for line in lines:
                content = json.dumps(line) if isinstance(line, dict) else line
                file.write((content.encode() if isinstance(content, str) else content) + b"\n")

    def start(self, *before: str) -> subprocess.Popen[bytes]:
        """Start the shipper as the service does, but on a free port.

        Args:
            before: statements that it runs first.
        """
        program = "\n".join([*before, "from infra.local.services.logstash.__main__ import main", "main()"])
        command = [sys.executable, "-c", program, str(PIPELINES), str(free_port())]
        return subprocess.Popen(command, env=os.environ | self.environment, cwd=ROOT)

    @property
    def environment(self) -> dict[str, str]:
        (process,) = SERVICE.build(self.settings)
        return process.environment

    @contextmanager
    def running(self) -> Iterator[None]:
        """The shipper, as a thread of this process."""
        stopped = Event()
        with ThreadPoolExecutor(1) as pool, patch.dict(os.environ, self.environment):
            shipper = pool.submit(run, PIPELINES, free_port(), stopped)
            try:
                yield
            finally:
                stopped.set()
            shipper.result(DEADLINE_S)

    def wait(self) -> None:
        wait_until_shipped(self.settings, 2 * DEADLINE_S)

    def ship(self) -> Logs:
        """Ship all lines that are written; returns their count."""
        with self.running():
            self.wait()
        return self.count()

    def count(self) -> Logs:
        logs = count_logs(Systems(self.settings))
        assert logs is not None
        return logs

    def documents(self, index: str = "app-logs-*") -> dict[str, dict[str, Any]]:
        """Every document by its id."""
        self.client.indices.refresh(index=index)
        hits = self.client.search(index=index, size=10_000, version=True)["hits"]["hits"]
        assert all(hit["_version"] == 1 for hit in hits), "nothing is written twice"
        return {hit["_id"]: hit["_source"] for hit in hits}

    def rejections(self) -> dict[str, dict[str, Any]]:
        """Every rejected line by its text."""
        return {source["event"]["original"]: source for source in self.documents("rejected-app-logs").values()}
