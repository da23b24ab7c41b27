"""ComputeCostTravel: prices staged rides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from jobs.settings import Settings
from operators.base import DatastreamOperator


class ComputeCostOperator(DatastreamOperator):
    """Gives every staged ride its distance and its price, and every faulty message its reason.

    Args:
        staged: URL of ConsumeKafka's manifest.
    """

    template_fields: Sequence[str] = ("staged",)

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    def work(self, context: Context, settings: Settings) -> str:
        from jobs.rides.compute import compute
        from jobs.rides.distance import distance_function

        manifest = self.unfinished(self.staged)
        url, computed = compute(manifest, distance_function(settings.distance_method), self.folder(context, settings))
        self.log.info("Priced %d messages by %s distance", computed.records, settings.distance_method)
        return url
