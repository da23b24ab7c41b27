"""Reads the departures page and the weather page with a browser: `python -m jobs.flights.sources.scraper --help`.

It runs with the packages of requirements/tasks/flights.txt: its modules import only Selenium, jobs.errors and the
standard library.
"""

REFUSED = 3  # exit code: the page must not be scraped, or there is no browser. A retry does not help.
