"""The pages that the stack serves, and what becomes of their texts; without a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pytest_httpserver import HTTPServer

from infra.departures.board import FLIGHT_COLUMNS, PAGE_ROWS, WEATHER_COLUMNS, list_departures, list_weather
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.airports import AIRPORTS
from jobs.flights.contract import Flight, Kind, Reject, Weather
from jobs.flights.sources.scraped import ScrapedPage, list_hosts, read_page, scrape
from jobs.flights.sources.scraper.allowed import Gate
from jobs.flights.vertical import FlightsSettings

HOUR = datetime(2026, 11, 28, 12, tzinfo=UTC)
URL = "http://127.0.0.1:8090/departures.html?page=1"
FLIGHT = ["AF 718", "CDG", "DSS", "2026-11-28 12:30", "2026-11-28 12:42", "2026-11-28 17:20", "Departed", "12"]
WEATHER = ["CDG", "Paris", "49.0", "2.5", "7.5", "4.1", "270", "81", "1009", "9.5", "Rain"]


def show(kind: Kind, *rows: list[str], header: tuple[str, ...] | None = None) -> ScrapedPage:
    columns = FLIGHT_COLUMNS if kind == Kind.FLIGHT else WEATHER_COLUMNS
    return ScrapedPage(kind, URL, "2026-11-28T12:00:00Z", list(header or columns), list(rows))


def read(page: ScrapedPage) -> list[Any]:
    return list(read_page(page))


def test_the_boards_depend_on_the_hour_only() -> None:
    for function in (list_departures, list_weather):
        rows = function(HOUR)
        assert rows == function(HOUR) != function(HOUR + timedelta(hours=1))
        assert len(rows) == 2 * PAGE_ROWS


def test_every_row_of_a_year_of_boards_is_an_observation() -> None:
    # Every 79 hours: all hours of the day.
    hours = [HOUR + timedelta(hours=79 * number) for number in range(110)]
    items = [
        item
        for hour in hours
        for kind, function in ((Kind.FLIGHT, list_departures), (Kind.WEATHER, list_weather))
        for item in read(show(kind, *map(list, function(hour))))
    ]
    assert [item for item in items if isinstance(item, Reject)] == []
    assert {item.status for item in items if isinstance(item, Flight)} == {"scheduled", "active", "landed", "cancelled"}
    assert {item.place_id for item in items if isinstance(item, Weather)} == set(AIRPORTS)


def test_a_flight_of_the_board_goes_from_scheduled_to_landed() -> None:
    states: dict[str, list[str]] = {}
    for shift in range(8):
        for item in read(show(Kind.FLIGHT, *map(list, list_departures(HOUR + timedelta(hours=shift))))):
            states.setdefault(item.flight_id, []).append(item.status)
    assert ["scheduled", "active", "landed"] in [list(dict.fromkeys(seen)) for seen in states.values()]


def test_local_times_become_utc_by_their_airport() -> None:
    # At the end of summer time, 02:30 occurs twice in Paris.
    twice = [*FLIGHT[:3], "2026-10-25 02:30", "", *FLIGHT[5:]]
    flight, ambiguous = read(show(Kind.FLIGHT, FLIGHT, twice))
    assert flight.scheduled_departure == "2026-11-28T11:30:00.000000Z"
    assert flight.estimated_departure == "2026-11-28T11:42:00.000000Z"
    assert flight.scheduled_arrival == "2026-11-28T17:20:00.000000Z"
    assert (flight.departure_local, flight.flight_id) == ("2026-11-28 12:30", "AF718/2026-11-28/CDG")
    assert (flight.observed_at, flight.departure_delay_min) == ("2026-11-28T12:00:00.000000Z", 12)
    assert (flight.source, flight.position, flight.is_ambiguous) == ("scraped", f"{URL}#1", False)
    assert (ambiguous.scheduled_departure, ambiguous.is_ambiguous) == ("2026-10-25T00:30:00.000000Z", True)


def test_the_visibility_becomes_metres() -> None:
    [weather] = read(show(Kind.WEATHER, WEATHER))
    assert (weather.visibility_m, weather.temperature, weather.units) == (9500, 7.5, "metric")


@pytest.mark.parametrize(
    ("kind", "column", "text", "reason"),
    [
        (Kind.FLIGHT, 0, "Air France", "invalid_text"),
        (Kind.FLIGHT, 1, "QQQ", "unknown_airport"),
        (Kind.FLIGHT, 2, "", "unknown_airport"),
        (Kind.FLIGHT, 3, "2026-02-30 12:30", "invalid_timestamp"),
        (Kind.FLIGHT, 3, "0001-01-01 00:00", "invalid_timestamp"),
        (Kind.FLIGHT, 4, "soon", "invalid_timestamp"),
        (Kind.FLIGHT, 6, "Boarding", "wrong_type"),
        (Kind.FLIGHT, 7, "12 min", "wrong_type"),
        (Kind.WEATHER, 0, "QQQ", "unknown_airport"),
        (Kind.WEATHER, 2, "149.0", "impossible_coordinates"),
        (Kind.WEATHER, 4, "280.65", "wrong_units"),
        (Kind.WEATHER, 9, "far", "wrong_type"),
        (Kind.WEATHER, 7, "181", "out_of_range"),
    ],
)
def test_a_bad_row_is_one_reject(kind: Kind, column: int, text: str, reason: str) -> None:
    good = FLIGHT if kind == Kind.FLIGHT else WEATHER
    bad = [*good[:column], text, *good[column + 1 :]]
    before, reject, after = read(show(kind, good, bad, good))
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.origin.position) == (reason, f"{URL}#2")
    assert json.loads(reject.value)["cells"] == bad
    assert before.event_id == after.event_id


def test_a_short_row_is_truncated() -> None:
    reject, after = read(show(Kind.FLIGHT, FLIGHT[:-1], FLIGHT))
    assert reject.reason == "truncated"
    assert isinstance(after, Flight)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ([*WEATHER_COLUMNS, "Snow (cm)"], "unknown_field"),
        (WEATHER_COLUMNS[:-1], "missing_field"),
        ([text.replace("°C", "°F") for text in WEATHER_COLUMNS], "wrong_units"),
        ([text.replace(" (m/s)", "") for text in WEATHER_COLUMNS], "wrong_units"),
        ([*WEATHER_COLUMNS, "City"], "duplicate_key"),
    ],
)
def test_a_wrong_header_is_the_only_reject_of_its_page(columns: Any, reason: str) -> None:
    page = show(Kind.WEATHER, WEATHER, WEATHER, header=tuple(columns))
    [reject] = read(page)
    assert (reject.reason, reject.origin.position) == (reason, URL)
    assert msgspec.json.decode(reject.value, type=ScrapedPage) == page


def test_a_page_without_a_table_is_a_reject_with_its_source() -> None:
    [reject] = read(ScrapedPage(Kind.WEATHER, URL, fault="the table was not filled", body="<html>é</html>"))
    assert (reject.reason, reject.detail) == ("empty_page", "the table was not filled")
    assert reject.value.decode() == "<html>é</html>"


def test_another_host_is_refused_before_anything_starts() -> None:
    settings = FlightsSettings(_env_file=None, flights_scrape_hosts="a.example, b.example")
    assert list_hosts(settings) == ["127.0.0.1", "a.example", "b.example"]
    for site, paths in (("https://c.example", {}), ("", {"flight": "https://c.example/x"})):
        with pytest.raises(ConfigurationError, match=r"c\.example is not in the list.*terms of use"):
            list(scrape(settings, print, site, **paths))


@pytest.fixture
def robots(httpserver: HTTPServer) -> Iterator[HTTPServer]:
    yield httpserver
    httpserver.check()


def test_robots_txt_is_obeyed(robots: HTTPServer) -> None:
    rules = "User-agent: *\nDisallow: /private\nCrawl-delay: 1\n\nUser-agent: other\nDisallow: /\n"
    robots.expect_oneshot_request("/robots.txt").respond_with_data(rules)
    gate = Gate([robots.host])
    gate.check(robots.url_for("/public"))
    with pytest.raises(ConfigurationError, match=r"/private/x was not scraped: .*/robots.txt disallows it"):
        gate.check(robots.url_for("/private/x"))
    started = time.monotonic()
    gate.wait(robots.url_for("/a"))
    assert time.monotonic() - started < 0.5
    gate.wait(robots.url_for("/b"))
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(("status", "is_allowed"), [(404, True), (403, False)])
def test_a_missing_robots_txt_allows_everything_and_a_forbidden_one_nothing(
    robots: HTTPServer, status: int, is_allowed: bool
) -> None:
    robots.expect_request("/robots.txt").respond_with_data(status=status)
    gate = Gate([robots.host])
    if is_allowed:
        gate.check(robots.url_for("/x"))
    else:
        with pytest.raises(ConfigurationError, match="disallows"):
            gate.check(robots.url_for("/x"))


def test_without_an_answer_nothing_is_scraped(robots: HTTPServer) -> None:
    robots.expect_request("/robots.txt").respond_with_data(status=503)
    with pytest.raises(ServiceUnavailableError, match="answers 503"):
        Gate([robots.host]).check(robots.url_for("/x"))
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        Gate(["127.0.0.1"]).check("http://127.0.0.1:1/x")
