"""Collectors that ask a test's server, without a database for the quota."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from pytest_httpserver import HTTPServer

from jobs.flights import quota
from jobs.flights.quota import Charge, Plan
from jobs.flights.sources import http
from jobs.flights.vertical import FlightsSettings


@dataclass
class FakeQuota:
    """Counts charges in memory and never refuses one."""

    charges: int = 0
    refunds: int = 0
    marked: list[str] = field(default_factory=list)

    def charge(self, settings: FlightsSettings, plans: Sequence[Plan]) -> Charge:
        self.charges += 1
        return Charge(())

    def refund(self, settings: FlightsSettings, charged: Charge) -> None:
        self.refunds += 1

    def mark_used_up(self, settings: FlightsSettings, plan: Plan) -> datetime:
        self.marked.append(plan.period)
        return datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fake_quota(monkeypatch: pytest.MonkeyPatch) -> FakeQuota:
    fake = FakeQuota()
    for name in ("charge", "refund", "mark_used_up"):
        monkeypatch.setattr(quota, name, getattr(fake, name))
    return fake


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would wait between tries."""
    seconds: list[float] = []
    monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def settings(httpserver: HTTPServer) -> FlightsSettings:
    """Settings without keys, for one place and at most five pages."""
    return FlightsSettings(
        _env_file=None,
        flights_apis_url=httpserver.url_for("").rstrip("/"),
        flights_places="BOS",
        flights_aviationstack_pages=5,
    )


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(http, "TIMEOUT", http.httpx.Timeout(0.3))
