"""The verdict of each vertical's ledger, taken at intervals. A scrape only shows the last ones."""

from __future__ import annotations

import logging
import os
import pkgutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.clients import Systems
from jobs.errors import DatastreamError
from jobs.ledger.verdict import Figure, Ledger
from jobs.settings import ROOT, Settings, load
from jobs.vertical import Vertical

log = logging.getLogger(__name__)

# A ledger that takes longer hangs.
TIMEOUT_S = 600


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
        self._failed: dict[str, bool] = {}

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
        """Take a ledger in a process that ends: it needs memory for every message's key."""
        kind = vertical.settings
        command = [sys.executable, "-m", __name__, vertical.ledger, f"{kind.__module__}:{kind.__qualname__}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S, check=True)
        except (subprocess.SubprocessError, OSError) as error:
            detail = getattr(error, "stderr", None) or b""
            log.error("no ledger of %s: %s %s", vertical.name, error, detail.decode("utf-8", "replace"))
            self._failed[vertical.name] = True
            return
        answer = msgspec.json.decode(done.stdout, type=Taken | str)
        if isinstance(answer, Taken):
            self._taken[vertical.name] = answer
            self._failed[vertical.name] = False
        else:
            log.info("no ledger of %s: %s", vertical.name, answer)

    def read(self) -> Iterator[Metric]:
        """The last ledger of each vertical that has one."""
        taken, failed = dict(self._taken), dict(self._failed)
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
        failure = GaugeMetricFamily(
            "datastream_ledger_failed", "Whether the last one crashed, hung or ran out of memory", labels=["vertical"]
        )
        for vertical, has_failed in failed.items():
            failure.add_metric([vertical], has_failed)
        yield failure
        age = GaugeMetricFamily("datastream_ledger_timestamp_seconds", "When it was taken", labels=["vertical"])
        figures = GaugeMetricFamily("datastream_ledger_messages", "Its figures", labels=["vertical", "figure"])
        for vertical, ledger in taken.items():
            age.add_metric([vertical], ledger.at)
            for figure, count in ledger.figures.items():
                figures.add_metric([vertical, figure], count)
        yield age
        yield figures
        interval = GaugeMetricFamily("datastream_ledger_interval_seconds", "Between two ledgers of a vertical")
        interval.add_metric([], self._interval_s)
        yield interval


def take(function: str, kind: type[Settings]) -> Taken | str:
    """Take a ledger now; returns why there is none if a system does not answer.

    Args:
        function: the vertical's ledger, as `module:function`.
        kind: the class of its settings.
    """
    at = time.time()
    try:
        result: Ledger = pkgutil.resolve_name(function)(Systems(load(kind)))
    except DatastreamError as error:
        return str(error)
    figures = dict(_name_figures(result.figures))
    return Taken(at, result.exit_code, len(result.faults), result.lost, result.doubled, figures)


def _name_figures(figures: Iterable[Figure]) -> Iterator[tuple[str, int]]:
    """Each figure's name and count. A part has the name of its whole before it: several may have equal parts."""
    whole = ""
    for figure in figures:
        name = figure.name.strip()
        if name == figure.name:
            whole = name
        yield (name if name == whole else f"{whole}, {name}"), figure.count


def main() -> None:
    """Write a ledger to standard output as JSON; the arguments are those of `take`."""
    function, kind = sys.argv[1:]
    sys.stdout.buffer.write(msgspec.json.encode(take(function, pkgutil.resolve_name(kind))))


if __name__ == "__main__":
    main()
