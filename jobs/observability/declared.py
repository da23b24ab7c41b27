"""Series that show what verticals declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.settings import Settings
from jobs.vertical import Vertical


class DeclaredReader:
    """The consumer groups of verticals, to join with the series of Kafka, which know only groups that committed."""

    def __init__(self, verticals: Iterable[Vertical], settings: Settings) -> None:
        self._rows = [
            [vertical.name, group.id, getattr(settings, group.topic), group.done]
            for vertical in verticals
            for group in (*vertical.groups, *vertical.streams)
        ]

    def read(self) -> Iterator[Metric]:
        labels = ["vertical", "consumergroup", "topic", "done"]
        family = GaugeMetricFamily("datastream_consumergroup_info", "The group of a vertical", labels=labels)
        for row in self._rows:
            family.add_metric(row, 1)
        yield family
