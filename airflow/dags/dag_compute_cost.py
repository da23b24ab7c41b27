"""# Price rides, exactly once

`ConsumeKafka` → `ComputeCostTravel` → `PublishKafka`

Reads new messages from **rides_raw**, prices them and publishes them to **rides_result**. Invalid messages go to
**rides_dlq** with their reason. The results, dead letters and offsets of a chunk are in one transaction, so a task can
be killed and retried at any time. Without new messages, the run is skipped.

The Variable COMPUTE_ENGINE (default: the setting in .env) selects what prices them: **python**, or **spark** (the
service spark-driver of the profile spark). A run keeps the engine that it started with.

Unpause it and leave it on: it runs continuously. `make lag` shows the backlog.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.compute_cost_operator import ComputeCostOperator
from operators.consume_kafka_operator import ConsumeKafkaOperator
from operators.publish_kafka_operator import PublishKafkaOperator

with DAG(
    dag_id="dag_compute_cost",
    description="rides_raw → priced exactly once → rides_result",
    schedule="@continuous",
    # Without a start date, the second run gets the logical date of the first one and is never created.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "rides", "kafka"],
    doc_md=__doc__,
):
    consume = ConsumeKafkaOperator(
        task_id="ConsumeKafka",
        topic="{{ var.value.RAW_TOPIC }}",
        group="dag_compute_cost",
        result_topic="{{ var.value.RESULT_TOPIC }}",
        dlq_topic="{{ var.value.DLQ_TOPIC }}",
        waits_for_messages=True,
        engine="{{ var.value.get('COMPUTE_ENGINE', '') }}",
    )
    compute = ComputeCostOperator(task_id="ComputeCostTravel", staged=consume.output)
    publish = PublishKafkaOperator(
        task_id="PublishKafka",
        computed=compute.output,
        computed_by=compute.task_id,
        result_topic="{{ var.value.RESULT_TOPIC }}",
        dlq_topic="{{ var.value.DLQ_TOPIC }}",
        published_metric="datastream.rides.priced",
        rejected_metric="datastream.rides.rejected",
        freshness_metric="datastream.rides.freshness",
        outlets=[Asset("rides_result")],
    )
    consume >> compute >> publish
