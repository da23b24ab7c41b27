"""The verdict of each vertical's ledger, taken at intervals. A scrape only shows the last ones."""

from __future__ import annotations

import logging
import multiprocessing
import pkgutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.clients import Systems
from jobs.errors import DatastreamError
from jobs.ledger.verdict import Ledger
from jobs.settings import load
from jobs.vertical import Vertical

log = logging.getLogger(__name__)


class Taken(msgspec.Struct, frozen=True):
    """What a ledger found, and when (seconds since 1970)."""

    at: float
    verdict: int
    faults: int
    lost: int
    doubled: int
    figures: dict[str, int]


class LedgerReader:
    """Takes the ledgers of verticals in a thread.

    A vertical whose systems do not answer has no series, or keeps those of its last ledger, whose age grows.
    """

    def __init__(self, verticals: Iterable[Vertical], interval_s: float) -> None:
        self._verticals = [vertical for vertical in verticals if vertical.ledger]
        self._interval_s = interval_s
        self._taken: dict[str, Taken] = {}

    def start(self) -> None:
        """Take the first ledgers now, and all again after each interval, until the process ends."""
        threading.Thread(target=self._run, name="ledgers", daemon=True).start()

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            for vertical in self._verticals:
                self._take(vertical)
            time.sleep(max(0.0, began + self._interval_s - time.monotonic()))

    def _take(self, vertical: Vertical) -> None:
        # In a process that ends: a ledger needs memory for every message's key.
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                self._taken[vertical.name] = pool.submit(take, vertical.ledger, vertical.settings).result()
        except DatastreamError as error:
            log.info("no ledger of %s: %s", vertical.name, error)
        except Exception:
            log.exception("no ledger of %s", vertical.name)

    def read(self) -> Iterator[Metric]:
        """The last ledger of each vertical that has one."""
        taken = dict(self._taken)
        series = {
            "verdict": "0 balanced, 1 lost or doubled, 2 in progress, 3 no verdict",
            "faults": "Differences between the figures",
            "lost": "Messages that the ledger misses",
            "doubled": "Messages that the ledger found twice",
        }
        for name, text in series.items():
            family = GaugeMetricFamily(f"datastream_ledger_{name}", text, labels=["vertical"])
            for vertical, ledger in taken.items():
                family.add_metric([vertical], getattr(ledger, name))
            yield family
        age = GaugeMetricFamily("datastream_ledger_timestamp_seconds", "When it was taken", labels=["vertical"])
        figures = GaugeMetricFamily("datastream_ledger_messages", "Its figures", labels=["vertical", "figure"])
        for vertical, ledger in taken.items():
            age.add_metric([vertical], ledger.at)
            for figure, count in ledger.figures.items():
                figures.add_metric([vertical, figure], count)
        yield age
        yield figures


def take(function: str, kind: type) -> Taken:
    """Take a ledger now.

    Args:
        function: the vertical's ledger, as `module:function`.
        kind: the class of its settings.

    Raises:
        DatastreamError: a system does not answer.
    """
    at = time.time()
    result: Ledger = pkgutil.resolve_name(function)(Systems(load(kind)))
    figures = {figure.name.strip(): figure.count for figure in result.figures}
    return Taken(at, result.exit_code, len(result.faults), result.lost, result.doubled, figures)
