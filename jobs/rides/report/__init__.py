"""The report page: one HTML file with the figures of all rides, readable offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from elasticsearch import Elasticsearch

from jobs.rides import zones as zones_file
from jobs.rides.report.figures import draw_figures
from jobs.rides.report.page import render_page
from jobs.rides.report.queries import fetch_answers


def write_report(client: Elasticsearch, index: str, path: Path) -> Path:
    """Write the report page of an index: one HTML file that loads nothing else.

    The page also shows zones if `zones.json` (from `make bqml`) is in the same directory.

    Returns:
        The path. An existing page is replaced atomically.

    Raises:
        DatastreamError: the index is missing or has no rides yet.
        ServiceUnavailableError, ConfigurationError: Elasticsearch does not answer, or rejects this user.
    """
    answers = fetch_answers(client, index)
    zones = zones_file.read(path.with_name(zones_file.FILE))
    content = render_page(answers, draw_figures(answers, zones), datetime.now(UTC))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(content, encoding="utf-8")
    return unfinished.replace(path)
