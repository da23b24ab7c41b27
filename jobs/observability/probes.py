"""Reads all sources for one scrape; a source that fails leaves its series out and says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """A source of series. `read` answers within seconds, also when its source is down: it raises."""

    name: str
    read: Callable[[], Iterable[Metric]]


class ProbeCollector(Collector):
    """Reads probes side by side. `datastream_probe_success{probe}` is 0 for one that failed."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes
        self._failing: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        success = GaugeMetricFamily("datastream_probe_success", "Whether the source could be read", labels=["probe"])
        with ThreadPoolExecutor(len(self._probes)) as pool:
            answers = list(pool.map(self._read, self._probes))
        for probe, metrics in zip(self._probes, answers, strict=True):
            success.add_metric([probe.name], metrics is not None)
            yield from metrics or ()
        yield success

    def _read(self, probe: Probe) -> list[Metric] | None:
        """The series of a probe; None if it failed. The first failure in a row is logged."""
        try:
            metrics = list(probe.read())
        except Exception as error:
            if probe.name not in self._failing:
                log.warning("cannot read %s: %s: %s", probe.name, type(error).__name__, error)
            self._failing.add(probe.name)
            return None
        if probe.name in self._failing:
            log.warning("can read %s again", probe.name)
        self._failing.discard(probe.name)
        return metrics

    def describe(self) -> Iterable[Metric]:
        # An empty description: the registry does not read the sources to learn the names.
        return ()
