"""LoadTransactions: writes staged transactions into PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.kafka.staged import read_manifest
from jobs.shop.vertical import ShopSettings
from operators.base import DatastreamOperator


class LoadTransactionsOperator(DatastreamOperator):
    """Loads a claim exactly once: rows, refusals and positions of a chunk are in one database transaction.

    Args:
        staged: URL of ConsumeKafka's manifest.
    """

    template_fields: Sequence[str] = ("staged",)

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    def work(self, context: Context, settings: ShopSettings) -> None:
        from jobs.shop.load import load

        staged = read_manifest(self.staged)
        loaded = load(settings, staged)
        counts = {name: getattr(loaded, name) for name in ("inserted", "updated", "repeated", "stale")}
        refused = ", ".join(f"{count} {reason}" for reason, count in loaded.refused.most_common())
        self.log.info(
            "Loaded %d messages: %s, %d refused%s",
            loaded.count,
            ", ".join(f"{count} {name}" for name, count in counts.items()),
            loaded.refused.total(),
            refused and f" ({refused})",
        )
        self.report_freshness("datastream.shop.freshness", staged)
        for name, count in counts.items():
            Stats.incr(f"datastream.shop.{name}", count)
        for reason, count in loaded.refused.items():
            Stats.incr("datastream.shop.refused", count, tags={"reason": reason})
