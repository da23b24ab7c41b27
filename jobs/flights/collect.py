"""Collect: read a source and put what it gives into the buffer. Each can be repeated; repeats are only counted.

Each function counts in `added`, also what came before an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import IO

from jobs.flights import database
from jobs.flights.buffer import Added, open_buffer
from jobs.flights.contract import Collected, Kind
from jobs.flights.sources import aviationstack, openweather, scraped
from jobs.flights.sources.csv_files import import_files
from jobs.flights.sources.json_lines import read_json_lines
from jobs.flights.vertical import FlightsSettings

log = logging.getLogger(__name__)

# Inputs that are added at once, and the time that the first of them waits for the others of a slow source.
_BATCH = 500
_BATCH_S = 1.0


def collect_weather(settings: FlightsSettings, added: Added) -> None:
    """Collect the weather of FLIGHTS_PLACES from OpenWeather, or from its stand-in.

    Raises:
        QuotaUsedUpError: the plan has no request left.
        ConfigurationError: OpenWeather rejects the key.
        ServiceUnavailableError: OpenWeather, Redis or MySQL does not answer.
    """
    _collect(settings, openweather.collect(settings), added)


def collect_flights(settings: FlightsSettings, added: Added, observed_at: datetime) -> None:
    """Collect flights from AviationStack, or from its stand-in. Errors are those of `collect_weather`.

    Args:
        observed_at: when the flights are observed, with a time zone: the same for each try of a run.
    """
    _collect(settings, aviationstack.collect(settings, observed_at), added)


def scrape(settings: FlightsSettings, added: Added, show: Callable[[str], None] = log.info) -> None:
    """Collect flights and weather from the pages that the stack serves itself.

    Args:
        show: receives the lines of the scraper.

    Raises:
        ConfigurationError: there is no browser, or a page must not be scraped.
        CommandError: the scraper failed.
        ServiceUnavailableError: Redis does not answer.
    """
    _collect(settings, scraped.scrape(settings, show), added)


def import_csv(settings: FlightsSettings, added: Added) -> None:
    """Import the new files of FLIGHTS_CSV_FOLDER.

    Raises:
        ConfigurationError: there is no such folder, or an unknown encoding.
        ServiceUnavailableError: Redis or MySQL does not answer.
    """
    with open_buffer(settings) as buffer, database.connect(settings, database.WRITER) as connection:

        def add(inputs: Iterable[Collected]) -> None:
            added.count(buffer.add(inputs))

        import_files(settings, connection, add)


def collect_lines(settings: FlightsSettings, added: Added, stream: IO[bytes], kind: Kind, source: str) -> None:
    """Collect observations from JSON lines.

    Args:
        source: their `source`.

    Raises:
        ServiceUnavailableError: Redis does not answer.
    """
    _collect(settings, read_json_lines(stream, kind, source), added)


def _collect(settings: FlightsSettings, inputs: Iterator[Collected], added: Added) -> None:
    batch: list[Collected] = []
    began = time.monotonic()
    with open_buffer(settings) as buffer:
        try:
            for it in inputs:
                batch.append(it)
                if len(batch) >= _BATCH or time.monotonic() - began > _BATCH_S:
                    added.count(buffer.add(batch))
                    batch, began = [], time.monotonic()
        finally:
            # What a source gave before it failed is paid for, and may not come again.
            added.count(buffer.add(batch))
