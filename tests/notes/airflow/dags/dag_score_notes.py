"""# Score notes, exactly once

`ConsumeKafka` → `ScoreNotes` → `PublishKafka` → `DescribeNotes`
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.consume_kafka_operator import ConsumeKafkaOperator
from operators.publish_kafka_operator import PublishKafkaOperator
from operators.score_notes_operator import ScoreNotesOperator
from operators.subprocess_operator import SubprocessOperator

with DAG(
    dag_id="dag_score_notes",
    schedule="@continuous",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "notes"],
    doc_md=__doc__,
):
    consume = ConsumeKafkaOperator(
        task_id="ConsumeKafka",
        topic="{{ var.value.NOTES_RAW_TOPIC }}",
        group="dag_score_notes",
        result_topic="{{ var.value.NOTES_RESULT_TOPIC }}",
        dlq_topic="{{ var.value.NOTES_DLQ_TOPIC }}",
        waits_for_messages=True,
    )
    score = ScoreNotesOperator(task_id="ScoreNotes", staged=consume.output)
    publish = PublishKafkaOperator(
        task_id="PublishKafka",
        computed=score.output,
        computed_by=score.task_id,
        result_topic="{{ var.value.NOTES_RESULT_TOPIC }}",
        dlq_topic="{{ var.value.NOTES_DLQ_TOPIC }}",
        published_metric="datastream.notes.scored",
        rejected_metric="datastream.notes.rejected",
        freshness_metric="datastream.notes.freshness",
        outlets=[Asset("notes_result")],
    )
    describe = SubprocessOperator(task_id="DescribeNotes", vertical="notes", arguments=["-m", "jobs.notes.describe"])
    consume >> score >> publish >> describe
