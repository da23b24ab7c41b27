"""# Load transactions, exactly once

`ConsumeKafka` → `LoadTransactions` → `PublishDeadLetters`

Reads new messages from **shop_transactions** and writes them into PostgreSQL (**raw.transactions_raw**). Rows, refusals
and positions are in one database transaction, so a task can be killed and retried at any time. An older status never
overwrites a newer one. Messages that cannot be typed go to **shop_dlq** with their reason. The Kafka group follows the
database, so that `make lag` shows the backlog. Without new messages, the run is skipped.

Unpause it and leave it on: it runs continuously.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset

from callbacks.deadline import alert_after
from operators.base import DEFAULT_ARGS
from operators.consume_transactions_operator import ConsumeTransactionsOperator
from operators.load_transactions_operator import LoadTransactionsOperator
from operators.publish_refusals_operator import PublishRefusalsOperator

GROUP = "dag_load_transactions"

with DAG(
    dag_id="dag_load_transactions",
    description="shop_transactions → PostgreSQL exactly once",
    schedule="@continuous",
    # Without a start date, the second run gets the logical date of the first one and is never created.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    catchup=False,
    default_args=DEFAULT_ARGS,
    deadline=alert_after(timedelta(minutes=15)),
    tags=["datastream", "shop", "kafka", "postgres"],
    doc_md=__doc__,
):
    consume = ConsumeTransactionsOperator(
        task_id="ConsumeKafka",
        topic="{{ var.value.SHOP_TOPIC }}",
        group=GROUP,
        dlq_topic="{{ var.value.SHOP_DLQ_TOPIC }}",
        waits_for_messages=True,
    )
    load = LoadTransactionsOperator(
        task_id="LoadTransactions", staged=consume.output, outlets=[Asset("transactions_raw")]
    )
    publish = PublishRefusalsOperator(
        task_id="PublishDeadLetters",
        topic="{{ var.value.SHOP_TOPIC }}",
        group=GROUP,
        dlq_topic="{{ var.value.SHOP_DLQ_TOPIC }}",
    )
    consume >> load >> publish
