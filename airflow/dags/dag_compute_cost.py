"""# Price rides, exactly once

`ConsumeKafka` → `ComputeCostTravel` → `PublishKafka`

Takes what has arrived on **rides_raw**, prices it and publishes it to **rides_result**; what cannot be priced goes
to **rides_dlq** with its reason. A chunk's results, dead letters and offsets are in one transaction, so a
task may be killed and tried again at any moment. An empty topic skips the run.

Toggle it on and leave it on: it runs continuously. `make lag` shows what is left to do.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset

from callbacks.deadline import done_within
from operators.base import DEFAULT_ARGS
from operators.compute_cost_operator import ComputeCostOperator
from operators.consume_kafka_operator import ConsumeKafkaOperator
from operators.publish_kafka_operator import PublishKafkaOperator

with DAG(
    dag_id="dag_compute_cost",
    description="rides_raw → priced exactly once → rides_result",
    schedule="@continuous",
    # Without a start date the second run would get the first one's logical date, and never be made.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=done_within(timedelta(minutes=15)),
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
        outlets=[Asset("rides_result")],
    )
    consume >> compute >> publish
