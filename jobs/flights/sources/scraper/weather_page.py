"""The page object of the weather page."""

from __future__ import annotations

from jobs.flights.sources.scraper.table_page import TablePage


class WeatherPage(TablePage):
    """The weather: one row for each place."""

    kind = "weather"
    path = "/weather.html"
