"""# Train the city's zones

Reference file → `kmeans8` → `zones`

Once a day: loads the bucket's **reference/uber-split2.csv**, removes duplicates and pick-ups outside the service area,
clusters the rest into eight zones by k-means, and names the zones. Centroid ids change with each training; the table
`zones` maps them to names.

With `BIGQUERY_PROJECT` set, each step of infra/bigquery is a query job on BigQuery; the dataset must exist
(Terraform or `make bqml` creates it). Otherwise one task runs the same SQL on the local engine and saves the model as
JSON under the bucket's **models/**.

Trigger it once by hand before you turn on dag_zones_score: scoring needs a model. This DAG starts paused, because each
run on BigQuery costs money.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, chain

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.zones_operator import create_tasks

with DAG(
    dag_id="dag_zones_train",
    description="reference file → eight zones by k-means",
    # Between two runs of dag_zones_score, so that scoring does not read a half-finished training.
    schedule="2 3 * * *",
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "rides", "bigquery"],
    doc_md=__doc__,
):
    chain(*create_tasks("train"))
