"""Run the playbook in infra/bigquery: one task with a query job for each step on BigQuery, or one local task.

After a scoring, gauges show the revenue of each zone and comfort.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from airflow.sdk import BaseOperator, Context
from airflow.sdk.observability.stats import Stats

from jobs.rides.zones import Revenue
from jobs.settings import load
from jobs.zones.vertical import ZonesSettings
from operators.base import DatastreamOperator

Phase = Literal["train", "score"]

# The roles of the steps that each DAG runs. `look` steps are for people. `dataset` steps need a permission on the whole
# project, which the account of the tasks should not have.
_ROLES = {"train": ("setup", "train"), "score": ("setup", "score")}
_LOCAL_TASKS = {"train": "TrainLocally", "score": "ScoreLocally"}


class LocalZonesOperator(DatastreamOperator):
    """Trains or scores on the local engine; writes the result to gs://<bucket>/models/.

    Args:
        phase: train (reference file to model and zones) or score (rides to revenue by zone and comfort).
    """

    template_fields: Sequence[str] = ("bucket", "prefix")

    def __init__(
        self, *, phase: Phase, bucket: str, prefix: str, gcp_conn_id: str = "gcp_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.phase = phase
        self.bucket = bucket
        self.prefix = prefix
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: ZonesSettings) -> str:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.zones.engine import Answer
        from jobs.zones.playbook import Step
        from jobs.zones.run import REVENUE_STEP, score_locally, to_revenue, train_locally

        revenue: list[Revenue] = []

        def on_answer(step: Step, _: str, answer: Answer) -> None:
            self.log.info("%s: %s rows", step.name, answer.rows)
            if step.name == REVENUE_STEP:
                revenue.extend(to_revenue(answer))

        run_phase = train_locally if self.phase == "train" else score_locally
        uri = run_phase(
            settings.model_copy(update={"gcs_bucket": self.bucket, "gcs_prefix": self.prefix}),
            CloudStorageHook(self.gcp_conn_id).get_conn(),
            on_answer,
        )
        self.log.info("Wrote %s", uri)
        send_revenue(revenue)
        return uri


class ReportRevenueOperator(DatastreamOperator):
    """Reads the revenue that the last scoring has summed on BigQuery, and sends it as metrics."""

    def __init__(self, *, gcp_conn_id: str = "gcp_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: ZonesSettings) -> None:
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        from jobs.zones.bigquery import BigQueryEngine
        from jobs.zones.playbook import build_parameters
        from jobs.zones.run import read_revenue

        hook = BigQueryHook(gcp_conn_id=self.gcp_conn_id)
        client = hook.get_client(settings.bigquery_project, settings.bigquery_location)
        engine = BigQueryEngine(client, settings.bigquery_max_bytes_billed)
        send_revenue(read_revenue(engine, build_parameters(settings)))


def send_revenue(parts: Iterable[Revenue]) -> None:
    """Send the revenue of a scoring as gauges, with the time of the scoring.

    A gauge keeps its last value, even if a new training has no zone of that name. So each zone and comfort has a time,
    and what is older than the newest time is of an earlier scoring.
    """
    scored = int(time.time())
    for part in parts:
        tags = {"zone": _make_tag(part.label), "comfort": part.comfort}
        Stats.gauge("datastream.zones.revenue", part.revenue, tags=tags)
        Stats.gauge("datastream.zones.scored_timestamp_seconds", scored, tags=tags)


def _make_tag(label: str) -> str:
    """A zone's name for Airflow, which drops metrics with other characters: Châtelet 2 → Chatelet_2."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.-]+", "_", plain)


def create_tasks(phase: Phase) -> list[BaseOperator]:
    """Create the tasks of a DAG, in order: one for each step if BIGQUERY_PROJECT is set, else a single local task.

    On BigQuery, ReportRevenue follows the scoring.
    """
    settings = load(ZonesSettings)
    if not settings.bigquery_project:
        return [
            LocalZonesOperator(
                task_id=_LOCAL_TASKS[phase],
                phase=phase,
                bucket="{{ var.value.GCS_BUCKET }}",
                prefix="{{ var.value.GCS_PREFIX }}",
            )
        ]
    from airflow.providers.google.cloud.operators.bigquery import BigQueryInsertJobOperator

    from jobs.zones.playbook import build_parameters, read_steps

    values = build_parameters(settings)
    tasks: list[BaseOperator] = [
        BigQueryInsertJobOperator(
            task_id=step.name,
            gcp_conn_id="gcp_default",
            project_id=settings.bigquery_project,
            location=settings.bigquery_location,
            configuration={
                "query": {
                    "query": ";\n".join(step.build_statements(values)),
                    "useLegacySql": False,
                    "maximumBytesBilled": str(settings.bigquery_max_bytes_billed),
                },
                "labels": {"app": "datastream", "step": step.name},
            },
            doc_md=step.title,
        )
        for step in read_steps(*_ROLES[phase])  # type: ignore[arg-type]
    ]
    return tasks if phase == "train" else [*tasks, ReportRevenueOperator(task_id="ReportRevenue")]
