"""The departures page: a departures board and a weather page for the scraper of the flights to read."""
