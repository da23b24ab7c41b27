"""# Import CSV files

Imports the new files of FLIGHTS_CSV_FOLDER into the buffer in Redis, each once. A run that was killed is continued
at its line. Lines that break the contract become dead letters with file and line.

FLIGHTS_CSV_SCHEDULE sets the schedule.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.collect_operator import CollectOperator, read_schedule

with DAG(
    dag_id="dag_import_csv",
    description="CSV files → buffer in Redis",
    schedule=read_schedule("flights_csv_schedule"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "flights", "redis"],
    doc_md=__doc__,
):
    CollectOperator(task_id="ImportCSV", source="csv")
