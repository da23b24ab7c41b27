"""# Index and export priced rides

`ConsumeKafka` → `TransformJSON` → `PutElasticSearch` ∥ `PutGCP` → `CommitOffsets`

Every run reads new messages from **rides_result**, flattens them, adds agent_timestamp, and indexes them in the
Elasticsearch index **rides**, one document per ride. Documents that Elasticsearch rejects for good go to **rides_dlq**.

PutGCP exports the rides as **Parquet** to Cloud Storage, by the hour of the ride. It has its own consumer group, and
exports when EXPORT_TARGET_RECORDS rides wait or the oldest has waited EXPORT_MAX_AGE_S. To export now, trigger a run
with `export_now`. When a task is retried, both sinks write the same documents and objects again.

Starts when dag_compute_cost has published, and every minute. `make lag` shows the backlog.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.commit_offsets_operator import CommitOffsetsOperator
from operators.consume_kafka_operator import ConsumeKafkaOperator
from operators.put_elasticsearch_operator import PutElasticsearchOperator
from operators.put_gcp_operator import PutGCPOperator
from operators.transform_json_operator import TransformJSONOperator

with DAG(
    dag_id="dag_index_and_export",
    description="rides_result → Elasticsearch and Parquet on Cloud Storage",
    # The schedule covers what asset events miss: they are lost while the DAG is paused or when a run fails for good.
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=[Asset("rides_result")]
    ),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    params={"export_now": Param(False, type="boolean", description="Export all waiting rides now")},
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
        # Waiting rides are also exported when ConsumeKafka was skipped.
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
