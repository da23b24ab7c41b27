"""The scraper with a real Chromium on the pages that the stack serves. `make test-flights` runs this."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.environments import find_interpreter
from jobs.errors import CommandError, ConfigurationError
from jobs.flights.contract import Flight, Reject, Weather
from jobs.flights.sources.scraped import SCRAPER, scrape
from jobs.settings import ROOT
from tests.testkit.stack import guarded


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    """The settings of a running departures page, and the scraper's packages."""
    subprocess.run(["make", ".venv-flights/.stamp"], cwd=ROOT, check=True, timeout=300)
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["departures"])
        yield settings


def test_both_pages_of_both_tables_are_read(settings: Any) -> None:
    lines: list[str] = []
    items = list(scrape(settings, lines.append))
    assert Counter(type(item) for item in items) == {Flight: 24, Weather: 24}
    # The last rows are behind the cookie dialog and the button Next.
    for path, kind in (("departures", Flight), ("weather", Weather)):
        shown = [item.position for item in items if isinstance(item, kind)]
        assert shown == [
            f"{settings.flights_departures}/{path}.html?page={page}#{row}" for page in (1, 2) for row in range(1, 13)
        ]
    assert len({item.event_id for item in items}) == 48
    # Within the same hour, a second reading has the same ids.
    again = list(scrape(settings, lines.append))
    if again[0].observed_at == items[0].observed_at:  # type: ignore[union-attr]
        assert [item.event_id for item in again] == [item.event_id for item in items]
    assert lines == []


def test_a_table_that_never_fills_is_a_reject_and_the_next_page_is_read(settings: Any) -> None:
    reject, *weather = scrape(settings, print, flight="/departures.html?fault=empty")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.origin.source) == ("empty_page", "scraped")
    assert reject.origin.position.startswith(f"{settings.flights_departures}/departures.html?fault=empty")
    assert reject.detail == "the table was not filled within 10 s"
    assert b"<title>Departures</title>" in reject.value
    assert Counter(type(item) for item in weather) == {Weather: 24}


def test_html_in_place_of_json_and_a_missing_page_are_rejects(settings: Any) -> None:
    flight, weather = scrape(settings, print, flight="/departures.html?fault=html", weather="/nothing.html")
    assert isinstance(flight, Reject)
    assert isinstance(weather, Reject)
    assert (flight.kind, flight.reason, weather.kind, weather.reason) == (
        "flight",
        "empty_page",
        "weather",
        "empty_page",
    )
    assert "is not valid JSON" in flight.detail
    assert b"Not Found" in weather.value


def test_a_page_that_robots_txt_disallows_is_not_opened(settings: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"/private/x was not scraped: .*/robots\.txt disallows it"):
        list(scrape(settings, print, weather="/private/x"))


def test_the_scraper_refuses_another_host_itself(settings: Any) -> None:
    command = [find_interpreter("flights"), "-m", SCRAPER, "--host", "a.example", "--site", settings.flights_departures]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 3
    assert "127.0.0.1 is not in the list of allowed hosts (a.example)" in run.stderr
    assert run.stdout == ""


def test_a_missing_chromium_is_named_with_the_remedy(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(os.devnull)))
    with pytest.raises(ConfigurationError, match=r"no chromium on the PATH.*apt install chromium"):
        list(scrape(settings, print))


def test_a_server_that_is_down_fails_the_scraper(settings: Any) -> None:
    down = settings.model_copy(update={"flights_departures_url": "http://127.0.0.1:1"})
    with pytest.raises(CommandError, match=r"127\.0\.0\.1:1/robots\.txt does not answer"):
        list(scrape(down, print))
    no_selenium = settings.model_copy(update={"flights_selenium_url": "http://127.0.0.1:1"})
    with pytest.raises(CommandError, match=r"The Selenium server http://127\.0\.0\.1:1 does not answer"):
        list(scrape(no_selenium, print))
