"""The playbook of infra/bigquery as tasks: query jobs on BigQuery, or one task on the local engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from airflow.sdk import BaseOperator, Context

from jobs.settings import Settings, load
from operators.base import DatastreamOperator

Work = Literal["train", "score"]

# The roles of the steps that a DAG runs. `look` is for people; so is the dataset: to create one is a right on the whole
# project, which the account of the tasks should not have.
_ROLES = {"train": ("setup", "train"), "score": ("setup", "score")}
_LOCAL_TASKS = {"train": "TrainLocally", "score": "ScoreLocally"}


class LocalZonesOperator(DatastreamOperator):
    """Trains or scores on the local engine; what it finds goes to gs://<bucket>/models/.

    Args:
        work: train (reference file to model and zones) or score (rides to revenue by zone and comfort).
    """

    template_fields: Sequence[str] = ("bucket", "prefix")

    def __init__(
        self, *, playbook: Work, bucket: str, prefix: str, gcp_conn_id: str = "gcp_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.playbook = playbook
        self.bucket = bucket
        self.prefix = prefix
        self.gcp_conn_id = gcp_conn_id

    def work(self, context: Context, settings: Settings) -> str:
        from hooks.cloud_storage_hook import CloudStorageHook
        from jobs.zones.run import score_locally, train_locally

        work = train_locally if self.playbook == "train" else score_locally
        here = settings.model_copy(update={"gcs_bucket": self.bucket, "gcs_prefix": self.prefix})
        uri = work(
            here,
            CloudStorageHook(self.gcp_conn_id).get_conn(),
            lambda step, _, answer: self.log.info("%s: %s rows", step.name, answer.rows),
        )
        self.log.info("Wrote %s", uri)
        return uri


def playbook_tasks(work: Work) -> list[BaseOperator]:
    """The tasks of a DAG in their order: one for each step if BIGQUERY_PROJECT is set, else one that does it all."""
    settings = load()
    if not settings.bigquery_project:
        return [
            LocalZonesOperator(
                task_id=_LOCAL_TASKS[work],
                playbook=work,
                bucket="{{ var.value.GCS_BUCKET }}",
                prefix="{{ var.value.GCS_PREFIX }}",
            )
        ]
    from airflow.providers.google.cloud.operators.bigquery import BigQueryInsertJobOperator

    from jobs.zones.playbook import parameters, steps

    values = parameters(settings)
    return [
        BigQueryInsertJobOperator(
            task_id=step.name,
            gcp_conn_id="gcp_default",
            project_id=settings.bigquery_project,
            location=settings.bigquery_location,
            configuration={
                "query": {
                    "query": ";\n".join(step.statements(values)),
                    "useLegacySql": False,
                    "maximumBytesBilled": str(settings.bigquery_max_bytes_billed),
                },
                "labels": {"app": "datastream", "step": step.name},
            },
            doc_md=step.title,
        )
        for step in steps(*_ROLES[work])  # type: ignore[arg-type]
    ]
