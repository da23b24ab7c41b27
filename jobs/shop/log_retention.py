"""Deletes old daily indices of the log, where Elasticsearch does not do so by their lifecycle policy."""

from __future__ import annotations

from datetime import UTC, datetime

from elasticsearch import Elasticsearch

from jobs.shop.vertical import LOGS_TEMPLATE, ShopSettings
from jobs.sinks.elasticsearch import has_lifecycles, read_retention, translate_errors


def name_oldest_kept_index() -> str:
    """The daily index of the oldest day that the lifecycle policy keeps. Names sort by day."""
    return f"app-logs-{datetime.now(UTC) - read_retention(LOGS_TEMPLATE):%Y.%m.%d}"


def delete_expired_indices(client: Elasticsearch, *, dry_run: bool = False) -> list[str] | None:
    """Delete the indices of days that the policy does not keep; None if the node does so itself.

    Returns:
        Their names.

    Raises:
        ServiceUnavailableError: it failed; it is safe to try again.
    """
    with translate_errors(client, "deleting old indices of the log"):
        if has_lifecycles(client):
            return None
        oldest = name_oldest_kept_index()
        expired = sorted(name for name in client.indices.get(index=ShopSettings.shop_logs_index) if name < oldest)
        for name in [] if dry_run else expired:
            client.indices.delete(index=name)
    return expired
