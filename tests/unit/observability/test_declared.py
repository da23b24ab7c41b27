"""The series that a vertical reads for the exporter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.observability.declared import SeriesReader
from jobs.observability.probes import Probe, ProbeCollector
from jobs.settings import Settings
from jobs.vertical import Vertical

OFF, REFUSED = ServiceUnavailableError("no answer"), ConfigurationError("wrong password")


class Warehouse:
    """Answers, or fails with the next of these errors."""

    answers: ClassVar[list[DatastreamError | None]] = []


def read_series(_: Settings) -> Iterator[Metric]:
    error = Warehouse.answers.pop(0)
    if error:
        raise error
    yield GaugeMetricFamily("rows", "Rows", value=7)


@pytest.mark.parametrize(
    ("answers", "series"),
    [
        # A profile that is off has no series, and is no failure.
        ([OFF, OFF], [{"shop": 1}, {"shop": 1}]),
        ([OFF, None], [{"shop": 1}, {"rows": 7, "shop": 1}]),
        # One that was on and stops is a failure, until it answers again.
        ([None, OFF, None], [{"rows": 7, "shop": 1}, {"shop": 0}, {"rows": 7, "shop": 1}]),
        # A wrong password is one from the start.
        ([REFUSED], [{"shop": 0}]),
    ],
)
def test_a_vertical_fails_once_it_has_answered(
    answers: list[DatastreamError | None], series: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Warehouse, "answers", list(answers))
    vertical = Vertical(name="shop", settings=Settings, series=f"{__name__}:read_series")
    reader = SeriesReader(vertical, Settings(_env_file=None))
    other = Probe("other", lambda: [GaugeMetricFamily("others", "Others", value=1)])
    collector = ProbeCollector([Probe("shop", reader.read), other])
    for expected in series:
        samples = [sample for metric in collector.collect() for sample in metric.samples]
        found = {sample.labels.get("probe", sample.name): sample.value for sample in samples}
        assert found == {**expected, "others": 1, "other": 1}
