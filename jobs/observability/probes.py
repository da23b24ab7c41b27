"""Reads all sources for one scrape; a source that fails leaves its series out and says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

# Prometheus waits for 10 s.
DEADLINE_S = 8.0


@dataclass(frozen=True)
class Probe:
    """A source of series. `read` raises if it cannot be read; what takes longer than DEADLINE_S counts as a failure."""

    name: str
    read: Callable[[], Iterable[Metric]]


class ProbeCollector(Collector):
    """Reads probes side by side. `datastream_probe_success{probe}` is 0 for one that failed."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes
        self._failing: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        success = GaugeMetricFamily("datastream_probe_success", "Whether the source could be read", labels=["probe"])
        deadline = time.monotonic() + DEADLINE_S
        pool = ThreadPoolExecutor(len(self._probes))
        answers = [pool.submit(lambda probe=probe: list(probe.read())) for probe in self._probes]  # type: ignore[misc]
        for probe, answer in zip(self._probes, answers, strict=True):
            try:
                metrics = answer.result(max(0.0, deadline - time.monotonic()))
            except Exception as error:
                self._note_failure(probe, error)
                success.add_metric([probe.name], False)
                continue
            self._note_success(probe)
            success.add_metric([probe.name], True)
            yield from metrics
        # A late one ends by itself.
        pool.shutdown(wait=False)
        yield success

    def _note_failure(self, probe: Probe, error: Exception) -> None:
        """Log the first failure in a row."""
        if probe.name not in self._failing:
            log.warning("cannot read %s: %s: %s", probe.name, type(error).__name__, error)
        self._failing.add(probe.name)

    def _note_success(self, probe: Probe) -> None:
        if probe.name in self._failing:
            log.warning("can read %s again", probe.name)
        self._failing.discard(probe.name)

    def describe(self) -> Iterable[Metric]:
        # An empty description: the registry does not read the sources to learn the names.
        return ()
