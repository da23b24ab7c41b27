"""The alert for a run that takes too long."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

log = logging.getLogger(__name__)


async def report_missed_deadline(context: dict[str, Any] | None = None, **_: Any) -> None:
    """Log the run that missed its deadline. Runs in the triggerer."""
    run = (context or {}).get("dag_run", {})
    log.error(
        "Deadline missed: dag_id=%s run_id=%s did not finish in time. See the backlog with `make lag`, and "
        "docs/troubleshooting.md for what slows a run down.",
        run.get("dag_id"),
        run.get("dag_run_id"),
    )


def alert_after(limit: timedelta) -> DeadlineAlert:
    """An alert for runs that do not finish within `limit` after they were queued.

    The other references never fire for runs without a logical date, for example asset-triggered runs.
    """
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        # In seconds: with a timedelta, Airflow 3.3 returns 500 when a run is cleared (apache/airflow#70368).
        interval=limit.total_seconds(),
        callback=AsyncCallback(report_missed_deadline),
    )
