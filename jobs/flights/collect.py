"""Collect: read a source and put what it gives into the buffer. Each can be repeated; repeats are only counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import IO

from jobs.flights import database
from jobs.flights.buffer import Added, Buffer, open_buffer
from jobs.flights.contract import Collected, Kind
from jobs.flights.sources import aviationstack, openweather, scraped
from jobs.flights.sources.csv_files import import_files
from jobs.flights.sources.json_lines import read_json_lines
from jobs.flights.vertical import FlightsSettings

log = logging.getLogger(__name__)

# Small, so that what is collected before an error is in the buffer.
_BATCH = 100

Log = Callable[[str], None]


def collect_weather(settings: FlightsSettings) -> Added:
    """Collect the weather of FLIGHTS_PLACES from OpenWeather, or from its stand-in.

    Raises:
        QuotaUsedUpError: the plan has no request left.
        ConfigurationError: OpenWeather rejects the key.
        ServiceUnavailableError: OpenWeather, Redis or MySQL does not answer.
    """
    return _collect(settings, openweather.collect(settings))


def collect_flights(settings: FlightsSettings, observed_at: datetime) -> Added:
    """Collect flights from AviationStack, or from its stand-in. Errors are those of `collect_weather`.

    Args:
        observed_at: when the flights are observed, with a time zone: the same for each try of a run.
    """
    return _collect(settings, aviationstack.collect(settings, observed_at))


def scrape(settings: FlightsSettings, show: Log = log.info) -> Added:
    """Collect flights and weather from the pages that the stack serves itself.

    Args:
        show: receives the lines of the scraper.

    Raises:
        ConfigurationError: there is no browser, or a page must not be scraped.
        ServiceUnavailableError: the browser or Redis does not answer.
    """
    return _collect(settings, scraped.scrape(settings, show))


def import_csv(settings: FlightsSettings) -> Added:
    """Import the new files of FLIGHTS_CSV_FOLDER.

    Raises:
        ConfigurationError: there is no such folder, or an unknown encoding.
        ServiceUnavailableError: Redis or MySQL does not answer.
    """
    added = Added()
    with open_buffer(settings) as buffer, database.connect(settings, database.WRITER) as connection:
        import_files(settings, connection, lambda items: _add(buffer, items, added))
    return added


def collect_lines(settings: FlightsSettings, stream: IO[bytes], kind: Kind, source: str) -> Added:
    """Collect observations from JSON lines.

    Args:
        source: their `source`.

    Raises:
        ServiceUnavailableError: Redis does not answer.
    """
    return _collect(settings, read_json_lines(stream, kind, source))


def _collect(settings: FlightsSettings, inputs: Iterator[Collected]) -> Added:
    added = Added()
    with open_buffer(settings) as buffer:
        while batch := list(islice(inputs, _BATCH)):
            _add(buffer, batch, added)
    return added


def _add(buffer: Buffer, inputs: Iterable[Collected], total: Added) -> None:
    added = buffer.add(inputs)
    total.observed += added.observed
    total.rejected += added.rejected
    total.repeated += added.repeated
    total.reasons.update(added.reasons)
