"""TransformJSON: flattens and stamps staged results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from jobs.settings import Settings
from operators.base import DatastreamOperator


class TransformJSONOperator(DatastreamOperator):
    """Turns staged results into rows with flat coordinates and agent_timestamp.

    Args:
        staged: URL of ConsumeKafka's manifest.
    """

    template_fields: Sequence[str] = ("staged",)

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    def work(self, context: Context, settings: Settings) -> str:
        from jobs.rides.transform import transform

        url, transformed = transform(self.unfinished(self.staged), self.folder(context, settings))
        self.log.info("Transformed %d results; %d are none", transformed.records, transformed.rejects)
        return url
