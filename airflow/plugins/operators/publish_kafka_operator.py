"""PublishKafka: sends results, dead letters and offsets in transactions of whole chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.kafka.staged import read_manifest
from jobs.settings import Settings
from operators.base import DatastreamOperator


class PublishKafkaOperator(DatastreamOperator):
    """Publishes the outcomes of the staged messages, exactly once.

    Args:
        computed: URL of the manifest of the task that computed the outcomes.
        computed_by: id of that task, for the headers of dead letters.
        result_topic: topic for results.
        dlq_topic: topic for dead letters.
        published_metric, rejected_metric: names of the counters; the second has the reason as a tag.
        freshness_metric: name of the timer for the age of a run's oldest message.
    """

    template_fields: Sequence[str] = ("computed", "result_topic", "dlq_topic")

    def __init__(
        self,
        *,
        computed: Any,
        computed_by: str,
        result_topic: str,
        dlq_topic: str,
        published_metric: str,
        rejected_metric: str,
        freshness_metric: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.computed = computed
        self.computed_by = computed_by
        self.published_metric = published_metric
        self.rejected_metric = rejected_metric
        self.freshness_metric = freshness_metric
        self.result_topic = result_topic
        self.dlq_topic = dlq_topic

    def work(self, context: Context, settings: Settings) -> None:
        from jobs.kafka.publish import Outlet, publish

        # publish() checks the committed offsets, so a retry after the last commit still succeeds.
        manifest = read_manifest(self.computed)
        outlet = Outlet(self.result_topic, self.dlq_topic, self.dag_id, self.computed_by, "TRANSFORMATION")
        published = publish(self.kafka, manifest, outlet)
        self.locate_run_folder(context, settings).delete()
        reasons = ", ".join(f"{count} {reason}" for reason, count in published.rejects.most_common())
        total = published.rejects.total()
        self.log.info(
            "Published %d results, rejected %d messages%s", published.results, total, reasons and f" ({reasons})"
        )
        Stats.incr(self.published_metric, published.results)
        self.report_freshness(self.freshness_metric, manifest)
        for reason, count in published.rejects.items():
            Stats.incr(self.rejected_metric, count, tags={"reason": reason})
