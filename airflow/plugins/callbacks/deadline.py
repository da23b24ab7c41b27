"""The alert for a run that takes too long."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

log = logging.getLogger(__name__)


async def report_missed_deadline(context: dict[str, Any] | None = None, **_: Any) -> None:
    """Log which run is late; runs in the triggerer."""
    run = (context or {}).get("dag_run", {})
    log.error(
        "Deadline missed: dag_id=%s run_id=%s was not done in time. `make lag` shows what is left, "
        "docs/troubleshooting.md what slows a run down.",
        run.get("dag_id"),
        run.get("dag_run_id"),
    )


def done_within(limit: timedelta) -> DeadlineAlert:
    """An alert for runs that are not done within `limit` of being queued.

    The other references never fire for runs without a logical date, which continuous and asset runs may be.
    """
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        # Seconds: with a timedelta, Airflow 3.3 answers 500 when a run is cleared (apache/airflow#70368).
        interval=limit.total_seconds(),
        callback=AsyncCallback(report_missed_deadline),
    )
