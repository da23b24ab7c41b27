"""The report page: one HTML file with the figures of all rides, readable offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from elasticsearch import Elasticsearch

from jobs.rides import zones as playbook
from jobs.rides.report.figures import figures
from jobs.rides.report.page import page
from jobs.rides.report.queries import ask


def write_report(client: Elasticsearch, index: str, path: Path) -> Path:
    """Write the page of an index's rides: one HTML file that loads nothing else.

    The zones of the playbook are shown if their file (`zones.json`, by `make bqml`) lies beside the page.

    Returns:
        The path. A page that is there already is replaced at once, never half written.

    Raises:
        DatastreamError: the index is missing or has no rides yet.
        ServiceUnavailableError, ConfigurationError: Elasticsearch does not answer, or not to this user.
    """
    answers = ask(client, index)
    content = page(answers, figures(answers, playbook.read(path.with_name(playbook.FILE))), datetime.now(UTC))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(content, encoding="utf-8")
    return unfinished.replace(path)
