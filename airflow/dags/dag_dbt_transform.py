"""# Transactions into tested marts

source_freshness → dbt_run → dbt_test

Checks that transactions still arrive, builds the shop's marts in PostgreSQL with dbt, and tests them. Incremental
models take new and changed transactions only; a run without new ones changes nothing. Then dag_forecast_revenue runs.

Each task writes a row for each model and test into `ops.dbt_results`. The rows that fail a test are in the table that
the error names, in the schema `dbt_test_failures`. A failed test and a source that is too old are not retried.

`SHOP_DBT_SCHEDULE` sets the schedule. dbt runs with the packages of requirements/tasks/dbt.txt.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.dbt_operator import DbtOperator, read_schedule

with DAG(
    dag_id="dbt_transform",
    description="raw.transactions_raw → dbt → tested marts",
    schedule=read_schedule(),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=30)),
    tags=["datastream", "shop", "dbt"],
    doc_md=__doc__,
):
    freshness = DbtOperator(task_id="source_freshness", command=("source", "freshness"))
    run = DbtOperator(task_id="dbt_run", command=("build", "--resource-type", "model", "--resource-type", "snapshot"))
    # Unit tests check the code with rows of their own: `make test` runs them.
    test = DbtOperator(
        task_id="dbt_test", command=("test", "--exclude-resource-type", "unit_test"), outlets=[Asset("marts")]
    )
    freshness >> run >> test
