"""# Collect flights

Reads flights from AviationStack (without a key: from the stand-in) into the buffer in Redis. The relay moves them on to
MySQL, Cassandra and **flights**.

FLIGHTS_SCHEDULE sets the schedule: three runs of one request a day stay below the free plan's 100 a month. When they
are used up, the run is skipped; `make quota` shows what is left.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.collect_operator import CollectOperator, read_schedule

with DAG(
    dag_id="dag_collect_flights",
    description="AviationStack → buffer in Redis",
    schedule=read_schedule("flights_schedule"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "flights", "redis"],
    doc_md=__doc__,
):
    CollectOperator(task_id="CollectFlights", source="flights")
