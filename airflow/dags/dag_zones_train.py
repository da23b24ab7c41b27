"""# Learn the city's zones

Reference file → `kmeans8` → `zones`

Once a day: loads the bucket's **reference/uber-split2.csv**, keeps each pick-up inside the service area once, clusters
them into eight zones by k-means, and names the zones. Centroid ids change at each training; the table `zones` says what
they mean.

With `BIGQUERY_PROJECT` set, each step of infra/bigquery is a query job on BigQuery; the dataset must be there
(Terraform or `make bqml` creates it). Otherwise one task runs the same SQL on the local engine and keeps the model as
JSON under the bucket's **models/**.

Trigger it once by hand before dag_zones_score is toggled on: scoring needs a model. Training costs: it is paused until
somebody wants it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, chain

from callbacks.deadline import done_within
from operators.base import DEFAULT_ARGS
from operators.zones_operator import playbook_tasks

with DAG(
    dag_id="dag_zones_train",
    description="reference file → eight zones by k-means",
    # Between two runs of dag_zones_score, which must not read half of a new training.
    schedule="2 3 * * *",
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    default_args=DEFAULT_ARGS,
    deadline=done_within(timedelta(minutes=15)),
    tags=["datastream", "rides", "bigquery"],
    doc_md=__doc__,
):
    chain(*playbook_tasks("train"))
