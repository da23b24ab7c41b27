"""The page object of the departures board."""

from __future__ import annotations

from jobs.flights.sources.scraper.table_page import TablePage


class DeparturesPage(TablePage):
    """Departures: one row for each flight."""

    kind = "flight"
    path = "/departures.html"
