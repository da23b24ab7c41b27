"""The quota ledger on a real MariaDB: no worker exceeds a plan, and the ledger has no key of an API."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from pytest_httpserver import HTTPServer

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.errors import DatastreamError, ServiceUnavailableError
from jobs.flights import quota
from jobs.flights.contract import Flight, Weather
from jobs.flights.database import ADMIN, connect
from jobs.flights.quota import (
    Plan,
    QuotaUsedUpError,
    charge,
    list_aviationstack_plans,
    list_openweather_plans,
    list_quotas,
    mark_used_up,
    refund,
)
from jobs.flights.sources import aviationstack, openweather
from jobs.flights.vertical import FlightsSettings
from jobs.settings import ROOT
from tests.testkit.apis import air_body, flight_row, page_body, weather_body
from tests.testkit.stack import guarded

WORKER = """
import sys
from jobs.flights.quota import Plan, QuotaUsedUpError, charge
from jobs.flights.vertical import FlightsSettings
from jobs.settings import load

settings, charged = load(FlightsSettings), 0
plans = [Plan(sys.argv[1], "month", 100), Plan(sys.argv[1], "day", 1000)]
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        charge(settings, plans)
        charged += 1
except QuotaUsedUpError:
    print(charged, flush=True)
"""


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    """The settings of a running MySQL and running stand-in APIs."""
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["mysql", "apis"])
        yield settings


@pytest.fixture
def source() -> str:
    """A source that nobody has charged."""
    return f"test:{uuid4().hex[:8]}"


class Clock:
    """The time that the ledger sees. Its sleep only moves the clock."""

    def __init__(self, now: datetime) -> None:
        self.time = now
        self.sleeps: list[float] = []

    def now(self, zone: Any) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(datetime(2026, 11, 29, 23, 59, 20, tzinfo=UTC))
    monkeypatch.setattr(quota, "datetime", SimpleNamespace(now=clock.now))
    monkeypatch.setattr(quota, "time", SimpleNamespace(sleep=clock.sleep))
    return clock


def read_used(settings: Any, source: str) -> dict[tuple[str, str], int]:
    """The ledger's rows of a source: by period and start, the number of requests."""
    with connect(settings, ADMIN) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM quota_ledger WHERE source = %s", [source])
        return {(row["period"], f"{row['starts_at']:%Y-%m-%d %H:%M}"): row["used"] for row in cursor.fetchall()}


def test_processes_that_charge_at_once_never_exceed_the_plan(settings: Any, source: str) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=export_settings(settings),
        )
        for _ in range(4)
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    counts = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        out, _ = worker.communicate(timeout=60)
        counts.append(int(out))
    assert sum(counts) == 100
    assert len([count for count in counts if count]) > 1, "only one worker charged"
    # A charge that the month refused is not in the day.
    assert sorted(read_used(settings, source).values()) == [100, 100]


def test_threads_that_charge_a_new_period_at_once_never_exceed_it(settings: Any, source: str) -> None:
    def try_to_charge(number: int) -> bool:
        try:
            charge(settings, [Plan(f"{source}-{number // 8}", "day", 3), Plan(f"{source}-{number // 8}", "month", 5)])
        except QuotaUsedUpError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        charged = list(pool.map(try_to_charge, range(40)))
    assert [sum(charged[start : start + 8]) for start in range(0, 40, 8)] == [3] * 5
    for number in range(5):
        assert list(read_used(settings, f"{source}-{number}").values()) == [3, 3]


def test_a_used_up_minute_waits_and_does_not_burn_the_month(
    settings: Any, source: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    plans = [Plan(source, "minute", 2), Plan(source, "month", 100)]
    charge(settings, plans)
    charge(settings, plans)
    assert clock.sleeps == []
    with caplog.at_level(logging.INFO):
        charge(settings, plans)
    assert clock.sleeps == [40]
    assert f"{source}: 2 requests a minute are used up. Waiting 40 s." in caplog.text
    assert read_used(settings, source) == {
        ("minute", "2026-11-29 23:59"): 2,
        ("minute", "2026-11-30 00:00"): 1,
        ("month", "2026-11-01 00:00"): 3,
    }


@pytest.mark.parametrize(
    ("period", "resets_at"),
    [("month", datetime(2026, 12, 1, tzinfo=UTC)), ("day", datetime(2026, 11, 30, tzinfo=UTC))],
)
def test_a_used_up_plan_says_when_it_resets(
    settings: Any, source: str, clock: Clock, period: Any, resets_at: datetime
) -> None:
    plan = Plan(source, period, 1, "THE_SETTING")
    charge(settings, [plan])
    text = rf"{source}: 1 requests a {period} are used up until {resets_at:%Y-%m-%d} 00:00 UTC\..*THE_SETTING"
    with pytest.raises(QuotaUsedUpError, match=text) as caught:
        charge(settings, [plan, Plan(source, "minute", 5)])
    assert caught.value.resets_at == resets_at
    assert clock.sleeps == []
    clock.time = resets_at
    charge(settings, [plan])
    # The past is kept, and the refused charge is not in the minute.
    assert len(read_used(settings, source)) == 2
    assert set(read_used(settings, source).values()) == {1}


def test_the_year_ends(clock: Clock) -> None:
    december = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert quota.find_period("month", december) == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    assert quota.find_period("minute", december)[1] == datetime(2027, 1, 1, tzinfo=UTC)


def test_an_api_can_say_that_a_plan_is_used_up(settings: Any, source: str, clock: Clock) -> None:
    plan = Plan(source, "month", 10)
    charge(settings, [plan])
    assert mark_used_up(settings, plan) == datetime(2026, 12, 1, tzinfo=UTC)
    with pytest.raises(QuotaUsedUpError):
        charge(settings, [plan])
    assert list(read_used(settings, source).values()) == [10]


def test_a_charge_is_refunded_to_its_own_period(settings: Any, source: str, clock: Clock) -> None:
    plans = [Plan(source, "minute", 5), Plan(source, "month", 100)]
    charged = charge(settings, plans)
    clock.time += timedelta(minutes=1)
    charge(settings, plans)
    refund(settings, charged)
    assert read_used(settings, source) == {
        ("minute", "2026-11-29 23:59"): 0,
        ("minute", "2026-11-30 00:00"): 1,
        ("month", "2026-11-01 00:00"): 1,
    }


def test_quotas_are_listed(settings: Any, clock: Clock) -> None:
    keys = {"flights_openweather_key": "k", "flights_openweather_per_minute": 5, "flights_aviationstack_per_month": 3}
    settings = settings.model_copy(update=keys)
    clock.time = datetime(2027, 2, 3, 4, 5, 6, tzinfo=UTC)
    for _ in range(2):
        charge(settings, list_openweather_plans(settings))
    for _ in range(3):
        charge(settings, list_aviationstack_plans(settings))
    lower = settings.model_copy(update={"flights_aviationstack_per_month": 2})
    month, minute = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 2, 3, 4, 6, tzinfo=UTC)
    assert [tuple(vars(row).values()) for row in list_quotas(lower)] == [
        ("openweather", "month", 2, 1_000_000, 999_998, month),
        ("openweather", "minute", 2, 5, 3, minute),
        ("fake:aviationstack", "month", 3, 2, 0, month),
    ]
    clock.time = month
    assert [row.used for row in list_quotas(settings)] == [0, 0, 0]


def test_the_stand_ins_are_charged_as_their_own_sources(settings: Any, clock: Clock) -> None:
    clock.time = datetime(2027, 4, 1, tzinfo=UTC)
    settings = settings.model_copy(update={"flights_openweather_per_minute": 10, "flights_aviationstack_pages": 2})
    weather = list(openweather.collect(settings))
    assert len([item for item in weather if isinstance(item, Weather)]) == len(settings.flights_places.split(","))
    flights = list(aviationstack.collect(settings, datetime.now(UTC)))
    assert len([item for item in flights if isinstance(item, Flight)]) > 100
    # Eight places make 16 requests, at 10 a minute.
    assert clock.sleeps == [60]
    assert [(row.source, row.used) for row in list_quotas(settings)] == [
        ("fake:openweather", 16), ("fake:openweather", 6), ("fake:aviationstack", 2),
    ]  # fmt: skip
    for source in ("openweather", "aviationstack"):
        assert not [start for _, start in read_used(settings, source) if start.startswith("2027-04")]


def test_tries_are_charged_and_an_api_marks_its_month(
    settings: Any, clock: Clock, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.time = datetime(2027, 5, 1, tzinfo=UTC)
    monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=lambda _: None))
    settings = settings.model_copy(update={"flights_apis_url": httpserver.url_for("").rstrip("/")})
    path = aviationstack.FLIGHTS
    for status in (500, 429):
        httpserver.expect_ordered_request(path).respond_with_data(status=status)
    httpserver.expect_ordered_request(path).respond_with_json(page_body([flight_row()]))
    assert len(list(aviationstack.collect(settings, datetime.now(UTC)))) == 1
    assert list_quotas(settings)[-1].used == 3
    httpserver.expect_ordered_request(path).respond_with_json({"error": {"code": "usage_limit_reached"}}, status=429)
    for _ in range(2):  # the second time, nothing is sent
        with pytest.raises(QuotaUsedUpError, match="until 2027-06-01"):
            list(aviationstack.collect(settings, datetime.now(UTC)))
    assert len(httpserver.log) == 4
    assert list_quotas(settings)[-1].left == 0


def test_nothing_is_sent_without_a_ledger(httpserver: HTTPServer) -> None:
    settings = FlightsSettings(
        _env_file=None, flights_mysql_port=1, flights_apis_url=httpserver.url_for("").rstrip("/")
    )
    with pytest.raises(ServiceUnavailableError, match=r"MySQL at 127\.0\.0\.1:1 does not answer"):
        list(openweather.collect(settings))
    assert httpserver.log == []


@pytest.mark.parametrize("status", [200, 401, 404, 429, 500])
def test_no_key_is_in_the_database(
    settings: Any, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, clock: Clock, status: int
) -> None:
    clock.time = datetime(2027, 6, 1, tzinfo=UTC)
    key = "SECRET-42"
    monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=lambda _: None))
    for module in (openweather, aviationstack):
        monkeypatch.setattr(module, "URL", httpserver.url_for("").rstrip("/"))
    keys = {"flights_openweather_key": key, "flights_aviationstack_key": key}
    limits = {"flights_openweather_per_minute": 1000, "flights_aviationstack_per_month": 1000}
    settings = settings.model_copy(update=keys | limits)
    body = {**weather_body(name=key), **air_body(), **page_body([key])}
    if status != 200:
        body = {"cod": status, "message": key, "error": {"code": "invalid_access_key", "message": key}}
    httpserver.expect_request(re.compile("/.*")).respond_with_json(body, status=status)
    for collect in (openweather.collect, lambda given: aviationstack.collect(given, datetime.now(UTC))):
        with suppress(DatastreamError):
            list(collect(settings))
    assert {request.args.get("appid") or request.args["access_key"] for request, _ in httpserver.log} == {key}
    assert {row.source for row in list_quotas(settings) if row.used} >= {"openweather", "aviationstack"}
    with connect(settings, ADMIN) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        tables = [name for row in cursor.fetchall() for name in row.values()]
        assert "quota_ledger" in tables
        for table in tables:
            cursor.execute(f"SELECT * FROM {table}")  # noqa: S608
            assert key not in repr(cursor.fetchall())
