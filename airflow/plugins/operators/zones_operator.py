"""Run the playbook in infra/bigquery: one task with a query job for each step on BigQuery, or one local task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from airflow.sdk import BaseOperator, Context

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
        from jobs.zones.run import score_locally, train_locally

        run_phase = train_locally if self.phase == "train" else score_locally
        uri = run_phase(
            settings.model_copy(update={"gcs_bucket": self.bucket, "gcs_prefix": self.prefix}),
            CloudStorageHook(self.gcp_conn_id).get_conn(),
            lambda step, _, answer: self.log.info("%s: %s rows", step.name, answer.rows),
        )
        self.log.info("Wrote %s", uri)
        return uri


def create_tasks(phase: Phase) -> list[BaseOperator]:
    """Create the tasks of a DAG, in order: one for each step if BIGQUERY_PROJECT is set, else a single local task."""
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
    return [
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
