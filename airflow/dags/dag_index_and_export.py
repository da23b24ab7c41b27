"""# Index and export priced rides

`ConsumeKafka` → `TransformJSON` → `PutElasticSearch` ∥ `PutGCP` → `CommitOffsets`

Takes what has arrived on **rides_result**, flattens and stamps it, and writes it to the Elasticsearch index
**rides** (one document per ride), at every run. What Elasticsearch refuses for good goes to **rides_dlq**.

As **Parquet** it goes to Cloud Storage (by the hour of the ride) when EXPORT_TARGET_RECORDS wait or the first of them
has waited EXPORT_MAX_AGE_S: for that, PutGCP has a consumer group of its own. Trigger a run with `export_now` to have
it at once. Both sinks write the same thing again when a task is tried again.

Starts when dag_compute_cost has published, and every minute besides. `make lag` shows what is left to do.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param

from callbacks.deadline import done_within
from operators.base import DEFAULT_ARGS
from operators.commit_offsets_operator import CommitOffsetsOperator
from operators.consume_kafka_operator import ConsumeKafkaOperator
from operators.put_elasticsearch_operator import PutElasticsearchOperator
from operators.put_gcp_operator import PutGCPOperator
from operators.transform_json_operator import TransformJSONOperator

with DAG(
    dag_id="dag_index_and_export",
    description="rides_result → Elasticsearch and Parquet on Cloud Storage",
    # Asset events are not kept for a paused DAG, and a run may have failed for good: the clock covers both.
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=[Asset("rides_result")]
    ),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=done_within(timedelta(minutes=15)),
    params={"export_now": Param(False, type="boolean", description="Export all that waits, whatever its size or age")},
    tags=["datastream", "rides", "elasticsearch", "gcs"],
    doc_md=__doc__,
):
    consume = ConsumeKafkaOperator(
        task_id="ConsumeKafka",
        topic="{{ var.value.RESULT_TOPIC }}",
        group="dag_index_and_export",
        dlq_topic="{{ var.value.DLQ_TOPIC }}",
        source_topic="{{ var.value.RAW_TOPIC }}",
    )
    transform = TransformJSONOperator(task_id="TransformJSON", staged=consume.output)
    put_elasticsearch = PutElasticsearchOperator(
        task_id="PutElasticSearch", staged=consume.output, transformed=transform.output
    )
    put_gcp = PutGCPOperator(
        task_id="PutGCP",
        # What waits for its age is exported in a run that has nothing new, too.
        trigger_rule="none_failed",
        topic="{{ var.value.RESULT_TOPIC }}",
        group="dag_index_and_export.PutGCP",
        staged=consume.output,
        bucket="{{ var.value.GCS_BUCKET }}",
        prefix="{{ var.value.GCS_PREFIX }}",
    )
    commit = CommitOffsetsOperator(
        task_id="CommitOffsets",
        transformed=transform.output,
        transformed_by=transform.task_id,
        put=put_elasticsearch.output,
        put_by=put_elasticsearch.task_id,
        dlq_topic="{{ var.value.DLQ_TOPIC }}",
        refused_metric="datastream.rides.refused",
    )
    consume >> transform >> [put_elasticsearch, put_gcp] >> commit
