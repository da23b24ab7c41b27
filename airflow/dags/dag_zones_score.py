"""# Revenue by zone and comfort

Parquet → native table → zone of each ride → `revenue_by_zone`, `revenue_by_hour`

Every 15 minutes: merges new rides into the native table (the same rides again change nothing), gives each ride the zone
it starts in, and adds up revenue and rides by zone, comfort and hour. It stops before that if more than half of the
rides are of another city than the model.

With `BIGQUERY_PROJECT` set, each step of infra/bigquery is a query job on BigQuery, and the tables are the result.
Otherwise one task runs the same SQL on the local engine; its result is the bucket's **models/rides/zones.json**.

It needs a model: run dag_zones_train once before. Each run costs, which is why it is paused until somebody wants it,
and why it does not run more often.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, chain

from callbacks.deadline import done_within
from operators.base import DEFAULT_ARGS
from operators.zones_operator import playbook_tasks

with DAG(
    dag_id="dag_zones_score",
    description="rides in Parquet → zones → revenue by zone and comfort",
    schedule="*/15 * * * *",
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    default_args=DEFAULT_ARGS,
    deadline=done_within(timedelta(minutes=15)),
    tags=["datastream", "rides", "bigquery"],
    doc_md=__doc__,
):
    chain(*playbook_tasks("score"))
