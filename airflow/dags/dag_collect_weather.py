"""# Collect the weather

Reads the weather and the air quality of FLIGHTS_PLACES from OpenWeather (without a key: from the stand-in) into the
buffer in Redis. The relay moves it on to MySQL, Cassandra and **weather**.

FLIGHTS_WEATHER_SCHEDULE sets the schedule; OpenWeather has new values every ten minutes. When the plan's requests are
used up, the run is skipped; `make quota` shows what is left.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.collect_operator import CollectOperator, read_schedule

with DAG(
    dag_id="dag_collect_weather",
    description="OpenWeather → buffer in Redis",
    schedule=read_schedule("flights_weather_schedule"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "flights", "redis"],
    doc_md=__doc__,
):
    CollectOperator(task_id="CollectWeather", source="weather")
