"""# Forecast the revenue of the next 7 days

`ForecastRevenue`

Trains a model on the tested marts whenever dbt_transform has built them, and replaces **marts.revenue_forecast** and
**marts.revenue_forecast_evaluation**, both in one database transaction. The evaluation compares the model with the same
weekday of the week before, over the last weeks; the task's log says which one is better.

Without enough complete days of sales, the run is skipped. The log says how many are missing.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.forecast_revenue_operator import ForecastRevenueOperator

with DAG(
    dag_id="dag_forecast_revenue",
    description="marts → revenue of the next 7 days",
    schedule=[Asset("marts")],
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "shop", "forecast"],
    doc_md=__doc__,
):
    ForecastRevenueOperator(task_id="ForecastRevenue")
