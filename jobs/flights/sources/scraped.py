"""Flights and weather from the departures page and the weather page, which a browser reads (the package scraper).

The browser's packages are in an environment of their own, so the scraper is a subprocess that prints JSON lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec

from jobs.environments import Command, find_interpreter
from jobs.errors import CommandError, ConfigurationError
from jobs.flights.airports import AIRPORTS, to_utc
from jobs.flights.contract import MAKERS, Collected, Kind, Origin, Reason, format_time, make_reject
from jobs.flights.sources.scraper import REFUSED
from jobs.flights.sources.scraper.allowed import check_host
from jobs.flights.sources.texts import read_number
from jobs.flights.vertical import VERTICAL, FlightsSettings
from jobs.strict_json import RejectedError

SOURCE = "scraped"
SCRAPER = "jobs.flights.sources.scraper"
METRES_PER_KM = 1000

# Each column by its name without the unit, with its unit.
COLUMNS: dict[Kind, dict[str, str]] = {
    Kind.FLIGHT: {
        "Flight": "", "From": "", "To": "", "Departure": "local time", "Expected": "local time",
        "Arrival": "local time", "Status": "", "Delay": "min",
    },
    Kind.WEATHER: {
        "Place": "", "City": "", "Latitude": "°", "Longitude": "°", "Temperature": "°C", "Wind": "m/s",
        "Direction": "°", "Humidity": "%", "Pressure": "hPa", "Visibility": "km", "Condition": "",
    },
}  # fmt: skip
STATUSES = {
    "Scheduled": "scheduled",
    "Delayed": "scheduled",
    "Departed": "active",
    "Landed": "landed",
    "Cancelled": "cancelled",
}
_FLIGHT = re.compile(r"([A-Z0-9]{2}) ?(\d{1,4}[A-Z]?)", re.ASCII)
_COLUMN = re.compile(r"([^()]+?)(?: \(([^()]+)\))?")


class ScrapedPage(msgspec.Struct, frozen=True):
    """A line of the scraper: a page's table, or why there is none (`fault`)."""

    kind: Kind
    url: str
    updated: str = ""
    header: list[str] = []
    rows: list[list[str]] = []
    fault: str = ""
    body: str = ""


def list_hosts(settings: FlightsSettings) -> list[str]:
    """The hosts that may be scraped."""
    others = [host.strip() for host in settings.flights_scrape_hosts.split(",")]
    return [host for host in (urlsplit(settings.flights_departures).hostname, *others) if host]


def scrape(settings: FlightsSettings, log: Callable[[str], None], site: str = "", **paths: str) -> Iterator[Collected]:
    """Scrape both pages.

    Args:
        log: receives the other lines that the scraper prints.
        site: URL of the site. Default: the departures page that this stack serves.
        paths: paths of the pages by kind, if they are others.

    Raises:
        ConfigurationError: the packages or the browser are not installed, or a page must not be scraped.
        CommandError: the scraper failed, for example because the page's server does not answer.
    """
    site = site or settings.flights_departures
    hosts = list_hosts(settings)
    for path in ("", *paths.values()):
        check_host(urljoin(site, path), hosts)
    arguments = ["--site", site, "--selenium", settings.flights_selenium_url]
    arguments += [f"--host={host}" for host in hosts] + [f"--{kind}={path}" for kind, path in paths.items()]
    pages: list[ScrapedPage] = []

    def read(line: str) -> None:
        if line.startswith('{"kind": '):
            pages.append(msgspec.json.decode(line, type=ScrapedPage))
        else:
            log(line)

    command = Command([find_interpreter(VERTICAL.requirement_set), "-m", SCRAPER, *arguments], {})
    failure: CommandError | None = None
    try:
        command.run(read)
    except CommandError as error:
        failure = error
    # Also what was read before a failure.
    for page in pages:
        yield from read_page(page)
    if failure is not None and failure.code == REFUSED:
        raise ConfigurationError(str(failure).rpartition("error: ")[2]) from failure
    if failure is not None:
        raise failure


def read_page(page: ScrapedPage) -> Iterator[Collected]:
    """The rows of a page as observations and rejects. A page without a table, or with a wrong one, is one reject."""
    fetched_at = format_time(datetime.now(UTC))
    origin = Origin(SOURCE, page.url, fetched_at)
    try:
        if page.fault:
            raise RejectedError(Reason.EMPTY_PAGE, page.fault)
        names = _read_header(page)
    except RejectedError as error:
        value = page.body.encode() if page.fault else msgspec.json.encode(page)
        yield make_reject(page.kind, origin, error, value)
        return
    convert = _CONVERTERS[page.kind]
    for number, cells in enumerate(page.rows, 1):
        origin = Origin(SOURCE, f"{page.url}#{number}", fetched_at)
        try:
            if len(cells) != len(names):
                raise RejectedError(Reason.TRUNCATED, f"the row has {len(cells)} cells, the header {len(names)}")
            texts = dict(zip(names, cells, strict=True))
            content = {name: value for name, value in convert(texts).items() if value not in ("", None)}
            yield MAKERS[page.kind](content | {"observed_at": page.updated}, origin)
        except RejectedError as error:
            value = json.dumps({"header": page.header, "cells": cells}, ensure_ascii=False).encode()
            yield make_reject(page.kind, origin, error, value)


def _read_header(page: ScrapedPage) -> list[str]:
    """The names of the columns without their units."""
    known = COLUMNS[page.kind]
    columns = [match.groups(default="") if (match := _COLUMN.fullmatch(text)) else (text, "") for text in page.header]
    names = [name for name, _ in columns]
    for name, unit in columns:
        if name not in known:
            raise RejectedError(Reason.UNKNOWN_FIELD, f"the table has a column {name[:40]!r}")
        if unit != known[name]:
            raise RejectedError(Reason.WRONG_UNITS, f"{name} is in {unit[:40]!r}, not in {known[name]!r}")
    if missing := [name for name in known if name not in names]:
        raise RejectedError(Reason.MISSING_FIELD, f"the table has no column {', '.join(missing)}")
    if len(names) != len(known):
        raise RejectedError(Reason.DUPLICATE_KEY, "the table has a column twice")
    return names


def _convert_flight(texts: dict[str, str]) -> dict[str, Any]:
    match = _FLIGHT.fullmatch(texts["Flight"])
    if not match:
        raise RejectedError(Reason.INVALID_TEXT, f"Flight {texts['Flight'][:40]!r} is not a flight number")
    departure, is_ambiguous = _read_local("Departure", texts, "From")
    return {
        "airline": match[1],
        "number": match[2],
        "flight_date": texts["Departure"][:10],
        "departure_airport": texts["From"],
        "arrival_airport": texts["To"],
        "status": STATUSES.get(texts["Status"], texts["Status"]),
        "scheduled_departure": departure,
        "estimated_departure": _read_local("Expected", texts, "From")[0] if texts["Expected"] else None,
        "scheduled_arrival": _read_local("Arrival", texts, "To")[0],
        "departure_delay_min": read_number(texts["Delay"]),
        "departure_local": texts["Departure"],
        "is_ambiguous": is_ambiguous,
    }


def _read_local(column: str, texts: dict[str, str], airport: str) -> tuple[str, bool]:
    """The UTC of a local time, and whether that local time occurs twice."""
    iata = texts[airport]
    if iata not in AIRPORTS:
        raise RejectedError(Reason.UNKNOWN_AIRPORT, f"{airport} {iata[:40]!r} is not in jobs/flights/airports.csv")
    try:
        local = datetime.strptime(texts[column], "%Y-%m-%d %H:%M")
        moment, is_ambiguous = to_utc(local, iata)
    except (ValueError, OverflowError) as error:
        raise RejectedError(Reason.INVALID_TIMESTAMP, f"{column} {texts[column][:40]!r}: {error}") from error
    return format_time(moment), is_ambiguous


def _convert_weather(texts: dict[str, str]) -> dict[str, Any]:
    visibility = read_number(texts["Visibility"])
    return {
        "place_id": texts["Place"],
        "lat": read_number(texts["Latitude"]),
        "lon": read_number(texts["Longitude"]),
        "units": "metric",
        "temperature": read_number(texts["Temperature"]),
        "wind_speed": read_number(texts["Wind"]),
        "wind_deg": read_number(texts["Direction"]),
        "humidity_pct": read_number(texts["Humidity"]),
        "pressure_hpa": read_number(texts["Pressure"]),
        "visibility_m": visibility * METRES_PER_KM if isinstance(visibility, float) else visibility,
        "condition": texts["Condition"],
    }


_CONVERTERS: dict[Kind, Callable[[dict[str, str]], dict[str, Any]]] = {
    Kind.FLIGHT: _convert_flight,
    Kind.WEATHER: _convert_weather,
}
