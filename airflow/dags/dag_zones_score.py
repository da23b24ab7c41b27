"""# Revenue by zone and comfort

Parquet → native table → zone of each ride → `revenue_by_zone`, `revenue_by_hour`

Every 15 minutes: merges new rides into the native table (merging the same rides again changes nothing), assigns each
ride to the zone it starts in, and sums revenue and rides by zone, comfort and hour. It stops before the sums if more
than half of the rides start outside the model's city.

With `BIGQUERY_PROJECT` set, each step of infra/bigquery is a query job on BigQuery, and the tables are the result.
Otherwise one task runs the same SQL on the local engine and writes the bucket's **models/rides/zones.json**. At
the end, gauges report the revenue of each zone and comfort.

Run dag_zones_train once before: scoring needs a model. This DAG starts paused and runs no more often, because each run
on BigQuery costs money.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, chain

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.zones_operator import create_tasks

with DAG(
    dag_id="dag_zones_score",
    description="rides in Parquet → zones → revenue by zone and comfort",
    schedule="*/15 * * * *",
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "rides", "bigquery"],
    doc_md=__doc__,
):
    chain(*create_tasks("score"))
