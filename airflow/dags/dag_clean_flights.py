"""# Clean flights and weather

`CleanFlights` ∥ `CleanWeather` → `LoadWarehouse`

Reads the new messages of **flights** and **weather**, converts units, fills in delays, and writes **Parquet** to Cloud
Storage, by the hour of the observation, exactly once. Implausible messages go to **flights_dlq**.

LoadWarehouse copies the new objects into raw.flights and raw.weather where the shop's warehouse runs; elsewhere it is
skipped.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.clean_operator import CleanOperator
from operators.load_warehouse_operator import LoadWarehouseOperator

with DAG(
    dag_id="dag_clean_flights",
    description="flights and weather → Parquet on Cloud Storage, and the warehouse",
    schedule="*/10 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "flights", "kafka", "gcs"],
    doc_md=__doc__,
):
    clean_flights = CleanOperator(
        task_id="CleanFlights",
        topic="{{ var.value.FLIGHTS_TOPIC }}",
        group="dag_clean_flights",
        table="flights",
        dlq_topic="{{ var.value.FLIGHTS_DLQ_TOPIC }}",
        bucket="{{ var.value.GCS_BUCKET }}",
        prefix="{{ var.value.FLIGHTS_PREFIX }}",
    )
    clean_weather = CleanOperator(
        task_id="CleanWeather",
        topic="{{ var.value.FLIGHTS_WEATHER_TOPIC }}",
        group="dag_clean_flights.weather",
        table="weather",
        dlq_topic="{{ var.value.FLIGHTS_DLQ_TOPIC }}",
        bucket="{{ var.value.GCS_BUCKET }}",
        prefix="{{ var.value.FLIGHTS_PREFIX }}",
    )
    load = LoadWarehouseOperator(
        task_id="LoadWarehouse",
        # Earlier objects may wait for the warehouse.
        trigger_rule="none_failed",
        bucket="{{ var.value.GCS_BUCKET }}",
        prefix="{{ var.value.FLIGHTS_PREFIX }}",
    )
    [clean_flights, clean_weather] >> load
