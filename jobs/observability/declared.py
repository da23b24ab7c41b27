"""Series that show what verticals declare, so that rules hold for every vertical; and those that verticals read."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.errors import ServiceUnavailableError
from jobs.settings import Settings
from jobs.vertical import Vertical


class DeclaredReader:
    """The consumer groups and dead-letter topics of verticals, to join with the series of Kafka."""

    def __init__(self, verticals: Sequence[Vertical], settings: Settings) -> None:
        self._dead_letters = [
            [vertical.name, getattr(settings, letters.topic), source]
            for vertical in verticals
            if (letters := vertical.dead_letters)
            for source in letters.resolve_sources(settings)
        ]
        self._groups = [
            [vertical.name, group.id, getattr(settings, group.topic), group.done]
            for vertical in verticals
            for group in (*vertical.groups, *vertical.streams)
        ]

    def read(self) -> Iterator[Metric]:
        labels = ["vertical", "consumergroup", "topic", "done"]
        yield _info("datastream_consumergroup_info", "A group and the topic that it reads", labels, self._groups)
        labels = ["vertical", "topic", "source"]
        yield _info("datastream_dead_letters_info", "A dead-letter topic and its source", labels, self._dead_letters)


class SeriesReader:
    """The series that one vertical reads.

    Its profile may be off: until its systems have answered once, no answer is no failure and gives no series.
    """

    def __init__(self, vertical: Vertical, settings: Settings) -> None:
        self._read = pkgutil.resolve_name(vertical.series)
        self._settings = settings
        self._has_answered = False

    def read(self) -> Iterable[Metric]:
        try:
            metrics = list(self._read(self._settings))
        except ServiceUnavailableError:
            if self._has_answered:
                raise
            return ()
        self._has_answered = True
        return metrics


def _info(name: str, text: str, labels: list[str], rows: list[list[str]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for row in rows:
        family.add_metric(row, 1)
    return family
