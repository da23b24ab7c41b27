"""Prints what the pages show, one JSON object for each page of a table, or for each page without a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urljoin

from selenium.webdriver.remote.webdriver import WebDriver

from jobs.errors import ConfigurationError, DatastreamError
from jobs.flights.sources.scraper import REFUSED
from jobs.flights.sources.scraper.allowed import Gate
from jobs.flights.sources.scraper.browser import open_browser
from jobs.flights.sources.scraper.departures_page import DeparturesPage
from jobs.flights.sources.scraper.table_page import MAX_BODY, PageFaultError
from jobs.flights.sources.scraper.weather_page import WeatherPage

PAGES = (DeparturesPage, WeatherPage)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.flights.sources.scraper", description="Print the tables of the pages as JSON lines."
    )
    parser.add_argument("--site", required=True, help="URL of the site, for example http://127.0.0.1:8090.")
    parser.add_argument("--host", action="append", required=True, help="Host that may be scraped. Repeatable.")
    parser.add_argument("--selenium", default="", help="Selenium server. Default: the Chromium of this machine.")
    for page in PAGES:
        parser.add_argument(f"--{page.kind}", metavar="PATH", default=page.path, help="Default: %(default)s.")
    options = parser.parse_args()
    gate = Gate(options.host)
    try:
        urls = {page: urljoin(options.site, getattr(options, page.kind)) for page in PAGES}
        for url in urls.values():  # before the browser starts
            gate.check(url)
        with open_browser(options.selenium) as browser:
            for page, url in urls.items():
                for line in _read(page(browser, gate), url, browser):
                    # A page may have lone surrogates, which are no JSON text.
                    print(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace").decode(), flush=True)
    except DatastreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(REFUSED if isinstance(error, ConfigurationError) else 1)


def _read(page: DeparturesPage | WeatherPage, url: str, browser: WebDriver) -> Iterator[dict[str, object]]:
    try:
        for board in page.read_all(url):
            yield {"kind": page.kind} | asdict(board)
    except PageFaultError as error:
        body = browser.page_source[:MAX_BODY]
        yield {"kind": page.kind, "url": browser.current_url, "fault": str(error), "body": body}


if __name__ == "__main__":
    main()
