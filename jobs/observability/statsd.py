"""Receives Airflow's metrics by StatsD and serves them as statsd_exporter does. For the run without Docker.

Docker runs https://github.com/prometheus/statsd_exporter. This stand-in knows what Airflow sends: counters, gauges,
timers, sample rates, and tags behind the name as InfluxDB writes them (`name,tag=value:1|c`).
"""

from __future__ import annotations

import logging
import re
import socketserver
import threading
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml
from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)

_INVALID = re.compile(r"[^a-zA-Z0-9_]")
_PACKET_BYTES = 65_535

Labels = tuple[tuple[str, str], ...]


class Sample(msgspec.Struct, frozen=True):
    """One line of StatsD. A timer's value is in seconds."""

    name: str
    labels: Labels
    kind: str
    value: float
    is_change: bool = False


class Histogram(msgspec.Struct):
    """The observations of one series: how many are in each bucket (its own count), and their sum in seconds."""

    counts: list[int]
    total: float = 0.0


def parse(line: str) -> Sample:
    """Parse a line of StatsD.

    Raises:
        ValueError: it is none, or of a kind that Airflow does not send.
    """
    # As statsd_exporter: a colon in a tag ends the name, too.
    name, separator, rest = line.partition(":")
    value, *details = rest.split("|")
    if not separator or not details or details[0] not in ("c", "g", "ms"):
        raise ValueError(f"no line of StatsD: {line!r}")
    kind = details[0]
    number = float(value)
    rates = [float(detail[1:]) for detail in details[1:] if detail.startswith("@")]
    if kind == "c" and rates:
        number /= rates[0]
    name, *tags = name.split(",")
    pairs = (tag.partition("=")[::2] for tag in tags)
    labels = tuple(sorted((_INVALID.sub("_", key), text) for key, text in pairs))
    is_change = kind == "g" and value[0] in "+-"
    return Sample(_INVALID.sub("_", name), labels, kind, number / 1000 if kind == "ms" else number, is_change)


class StatsdReader:
    """Adds up samples. Series live as long as the process, as in statsd_exporter without a time to live.

    Args:
        buckets: upper bounds of the histograms of timers, in seconds.
    """

    def __init__(self, buckets: list[float]) -> None:
        self._bounds = sorted(buckets)
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, Histogram]] = {}
        self._errors = 0
        self._lock = threading.Lock()

    def add(self, packet: bytes) -> None:
        """Add the lines of a packet; count those that are not StatsD."""
        for line in packet.decode("utf-8", "replace").splitlines():
            try:
                sample = parse(line)
            except (ValueError, IndexError):
                self._errors += 1
                log.debug("no StatsD: %r", line)
                continue
            with self._lock:
                self._add(sample)

    def _add(self, sample: Sample) -> None:
        if sample.kind == "ms":
            series = self._histograms.setdefault(sample.name, {})
            histogram = series.setdefault(sample.labels, Histogram([0] * (len(self._bounds) + 1)))
            histogram.counts[bisect_left(self._bounds, sample.value)] += 1
            histogram.total += sample.value
            return
        values = self._values.setdefault(sample.name, {})
        adds = sample.kind == "c" or sample.is_change
        values[sample.labels] = (values.get(sample.labels, 0.0) if adds else 0.0) + sample.value

    def read(self) -> Iterator[Metric]:
        """The series now. Counters have no `_total`, as in statsd_exporter."""
        with self._lock:
            values = {name: dict(series) for name, series in self._values.items()}
            histograms = {
                name: {labels: (list(it.counts), it.total) for labels, it in series.items()}
                for name, series in self._histograms.items()
            }
        for name, series in values.items():
            metric = Metric(name, "From StatsD", "unknown")
            for labels, value in series.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
        for name, observed in histograms.items():
            metric = Metric(name, "From StatsD, in seconds", "histogram")
            for labels, (counts, total) in observed.items():
                below = 0
                for bound, count in zip([*(f"{bound:g}" for bound in self._bounds), "+Inf"], counts, strict=True):
                    below += count
                    metric.add_sample(f"{name}_bucket", {**dict(labels), "le": bound}, below)
                metric.add_sample(f"{name}_sum", dict(labels), total)
                metric.add_sample(f"{name}_count", dict(labels), below)
            yield metric
        name = "statsd_exporter_sample_errors_total"
        errors = Metric(name, "Lines that are not StatsD", "unknown")
        errors.add_sample(name, {"reason": "malformed_line"}, self._errors)
        yield errors


def read_buckets(mapping: Path) -> list[float]:
    """The buckets in a mapping file of statsd_exporter, in seconds."""
    options = yaml.safe_load(mapping.read_text(encoding="utf-8"))["defaults"]["histogram_options"]
    return [float(bound) for bound in options["buckets"]]


def receive(reader: StatsdReader, host: str, port: int) -> None:
    """Receive packets in a thread until the process ends.

    Raises:
        OSError: the UDP port is taken.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            reader.add(self.request[0])

    class Server(socketserver.UDPServer):
        max_packet_size = _PACKET_BYTES

    server = Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="statsd", daemon=True).start()
