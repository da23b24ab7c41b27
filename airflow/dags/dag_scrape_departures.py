"""# Scrape the departures

Reads the departures page and the weather page, which the stack serves itself, with a browser into the buffer in Redis.
Other hosts are refused, and robots.txt is obeyed.

FLIGHTS_SCRAPE_SCHEDULE sets the schedule. The browser runs with the packages of requirements/tasks/flights.txt.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.collect_operator import CollectOperator, read_schedule

with DAG(
    dag_id="dag_scrape_departures",
    description="departures page → buffer in Redis",
    schedule=read_schedule("flights_scrape_schedule"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "flights", "redis"],
    doc_md=__doc__,
):
    CollectOperator(task_id="ScrapeDepartures", source="departures")
