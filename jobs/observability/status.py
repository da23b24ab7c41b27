"""What the stack does now: read from the exporter, from Airflow's API, and from Prometheus if it runs."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import requests
from prometheus_client.parser import text_string_to_metric_families

from jobs import airflow_api
from jobs.airflow_api import Dag, LastRun
from jobs.clients import make_local_session
from jobs.errors import DatastreamError, ServiceUnavailableError
from jobs.ledger.verdict import Verdict
from jobs.observability.vertical import ObservabilitySettings
from jobs.settings import LOOPBACK

# A source that is down takes the exporter up to 10 s.
_TIMEOUT_S = 30
_FRESH_SHARE = 0.95
_FRESHNESS = re.compile(r"airflow_datastream_\w+_freshness_bucket")
_REASONS = re.compile(r"airflow_datastream_(\w+)_(?:rejected|refused)")


class Part(msgspec.Struct, frozen=True):
    """A part of the stack, and who saw whether it is up: the exporter, the supervisor (without Docker), Prometheus."""

    name: str
    is_up: bool
    seen_by: str


class GroupState(msgspec.Struct, frozen=True):
    """What a consumer group has not read: offsets, and the age of the oldest message. None: nobody measures it."""

    group: str
    topic: str
    offsets: int | None
    age_s: float | None


class Held(msgspec.Struct, frozen=True):
    """Offsets of a topic behind open transactions."""

    topic: str
    offsets: int


class DagState(msgspec.Struct, frozen=True):
    """A DAG's last run that ended, and its freshness.

    `fresh_within_s`: 95 % of its runs since the start of the exporter were done at most so many seconds after their
    oldest message was written. None: it did not report; infinite: longer than measured.
    """

    dag_id: str
    is_paused: bool
    last_run: LastRun | None
    fresh_within_s: float | None


class DeadLetterState(msgspec.Struct, frozen=True):
    """A dead-letter topic: the offsets that it holds, and the reasons since the start of the exporter."""

    vertical: str
    topic: str
    offsets: int | None
    reasons: dict[str, int]


class LedgerState(msgspec.Struct, frozen=True):
    """The last ledger of a vertical that the exporter took: `verdict` is balanced, lost_or_doubled, in_progress, …"""

    vertical: str
    verdict: str
    age_s: float
    lost: int
    doubled: int
    faults: int


class WarehouseState(msgspec.Struct, frozen=True):
    """The shop's warehouse: ages of its newest row and backup, failed tests of dbt. None: there is none yet."""

    row_age_s: float | None
    backup_age_s: float | None
    failed_tests: int | None


class Alert(msgspec.Struct, frozen=True):
    """An alert of Prometheus: `state` is pending or firing."""

    name: str
    state: str
    severity: str
    summary: str
    runbook: str
    since: str


class Status(msgspec.Struct, frozen=True):
    """What the stack does at a moment.

    `dags` and `alerts` are None if Airflow or Prometheus do not answer; `notes` say so.
    """

    at: str
    parts: list[Part]
    groups: list[GroupState]
    held_back: list[Held]
    dags: list[DagState] | None
    dead_letters: list[DeadLetterState]
    ledgers: list[LedgerState]
    warehouse: WarehouseState
    alerts: list[Alert] | None
    notes: list[str]


class Series:
    """The samples of the exporter, and of Prometheus for series that the exporter does not serve."""

    def __init__(self, *texts: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for text in texts:
            read: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    read[sample.name].append((sample.labels, sample.value))
            self._samples = {**read, **self._samples}

    def read(self, name: str) -> Sequence[tuple[Mapping[str, str], float]]:
        """Labels and value of each sample of a series."""
        return self._samples.get(name, ())

    def find(self, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], Mapping[str, str], float]]:
        """The samples of all series whose whole name matches."""
        for name, samples in self._samples.items():
            if match := pattern.fullmatch(name):
                for labels, value in samples:
                    yield match, labels, value

    def add_up(self, name: str, *by: str) -> dict[tuple[str, ...], float]:
        """The sums of a series by labels."""
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for labels, value in self.read(name):
            sums[tuple(labels[label] for label in by)] += max(0.0, value)
        return dict(sums)


def read_status(settings: ObservabilitySettings) -> Status:
    """Read what the stack does now.

    Raises:
        ServiceUnavailableError: the exporter does not run.
    """
    exporter = _read_exporter(settings)
    prometheus = _Prometheus(settings)
    series = Series(exporter, prometheus.read_series())
    lags = series.add_up("kafka_consumergroup_lag", "consumergroup", "topic")
    ages = series.add_up("datastream_consumergroup_lag_seconds", "consumergroup", "topic")
    held = series.add_up("datastream_topic_partition_held_back", "topic")
    notes = [] if prometheus.is_ours else [f"Prometheus does not run at {prometheus.url}, so alerts are unknown."]
    try:
        dags = _list_dags(airflow_api.read_last_runs(settings), series)
    except DatastreamError as error:
        dags = None
        notes.append(str(error))
    return Status(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        parts=[*_list_parts(series), *prometheus.targets],
        groups=[
            GroupState(group, topic, _to_int(lags.get((group, topic))), ages.get((group, topic)))
            for group, topic in sorted(lags.keys() | ages.keys())
        ],
        held_back=[Held(topic, int(offsets)) for (topic,), offsets in sorted(held.items()) if offsets],
        dags=dags,
        dead_letters=_list_dead_letters(series),
        ledgers=_list_ledgers(series),
        warehouse=_read_warehouse(series),
        alerts=prometheus.read_alerts(),
        notes=notes,
    )


def _read_exporter(settings: ObservabilitySettings) -> str:
    url = f"http://{LOOPBACK}:{settings.observability_exporter_port}/metrics"
    try:
        answer = make_local_session().get(url, timeout=_TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise ServiceUnavailableError(
            f"The exporter does not answer at {url}. Start it: `make observe` (without Docker), or "
            "`docker compose --profile observability up -d --wait`."
        ) from error
    if "datastream_probe_success" not in answer.text:
        raise ServiceUnavailableError(f"{url} belongs to another program. Set OBSERVABILITY_EXPORTER_PORT in .env.")
    return answer.text


class _Prometheus:
    """Prometheus, if it runs and is ours: one of its targets is our exporter."""

    def __init__(self, settings: ObservabilitySettings) -> None:
        self._session = make_local_session()
        self.url = f"http://{LOOPBACK}:{settings.observability_prometheus_port}"
        self.targets = sorted(self._read_targets(), key=lambda part: part.name)
        self.is_ours = any(part.name == "datastream" for part in self.targets)
        if not self.is_ours:
            self.targets = []

    def _read_targets(self) -> list[Part]:
        answer = self._get("/api/v1/targets", state="active")
        try:
            targets = answer.json()["data"]["activeTargets"] if answer else []
            return [Part(target["labels"]["job"], target["health"] == "up", "Prometheus") for target in targets]
        except (requests.JSONDecodeError, LookupError, TypeError):  # another program
            return []

    def read_series(self) -> str:
        """All newest samples in the format of an exporter; empty if it does not run."""
        answer = self._get("/federate", **{"match[]": '{__name__!=""}'}) if self.is_ours else None
        return answer.text if answer else ""

    def read_alerts(self) -> list[Alert] | None:
        answer = self._get("/api/v1/alerts") if self.is_ours else None
        if answer is None:
            return None
        alerts = [
            Alert(
                name=alert["labels"]["alertname"],
                state=alert["state"],
                severity=alert["labels"].get("severity", ""),
                summary=alert["annotations"].get("summary", ""),
                runbook=alert["annotations"].get("runbook", ""),
                since=alert["activeAt"],
            )
            for alert in answer.json()["data"]["alerts"]
            if alert["labels"]["alertname"] != "Watchdog"
        ]
        return sorted(alerts, key=lambda alert: (alert.state != "firing", alert.severity, alert.name))

    def _get(self, path: str, **parameters: str) -> requests.Response | None:
        try:
            answer = self._session.get(f"{self.url}{path}", params=parameters, timeout=_TIMEOUT_S)
            answer.raise_for_status()
        except requests.RequestException:
            return None
        return answer


def _list_parts(series: Series) -> list[Part]:
    probes = [Part(labels["probe"], value > 0, "exporter") for labels, value in series.read("datastream_probe_success")]
    processes = [
        Part(labels["process"], value > 0, "supervisor") for labels, value in series.read("datastream_process_running")
    ]
    return [*probes, *processes]


def _list_dags(dags: Sequence[Dag], series: Series) -> list[DagState]:
    fresh = _measure_freshness(series)
    return [DagState(dag.dag_id, dag.is_paused, dag.last_run, fresh.get(dag.dag_id)) for dag in dags]


def _measure_freshness(series: Series) -> dict[str, float]:
    """By DAG, the upper bound of the first bucket with which 95 % of its runs are counted."""
    buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _, labels, value in series.find(_FRESHNESS):
        buckets[labels["dag_id"]].append((float(labels["le"]), value))
    bounds = {}
    for dag_id, counts in buckets.items():
        total = max(count for _, count in counts)
        bounds[dag_id] = min(bound for bound, count in counts if count >= _FRESH_SHARE * total)
    return bounds


def _list_dead_letters(series: Series) -> list[DeadLetterState]:
    newest = series.add_up("kafka_topic_partition_current_offset", "topic")
    oldest = series.add_up("kafka_topic_partition_oldest_offset", "topic")
    reasons: dict[str, dict[str, int]] = defaultdict(dict)
    for match, labels, value in series.find(_REASONS):
        counts = reasons[match[1]]
        counts[labels["reason"]] = counts.get(labels["reason"], 0) + int(value)
    topics = {(labels["vertical"], labels["topic"]): None for labels, _ in series.read("datastream_dead_letters_info")}
    return [
        DeadLetterState(
            vertical,
            topic,
            offsets=int(newest[topic,] - oldest.get((topic,), 0)) if (topic,) in newest else None,
            reasons=dict(sorted(reasons[vertical].items(), key=lambda item: -item[1])),
        )
        for vertical, topic in topics
    ]


def _list_ledgers(series: Series) -> list[LedgerState]:
    def by_vertical(name: str) -> dict[str, float]:
        return {labels["vertical"]: value for labels, value in series.read(f"datastream_ledger_{name}")}

    times, lost, doubled, faults = map(by_vertical, ("timestamp_seconds", "lost", "doubled", "faults"))
    return [
        LedgerState(
            vertical,
            Verdict(int(verdict)).name.lower(),
            age_s=max(0.0, time.time() - times[vertical]),
            lost=int(lost[vertical]),
            doubled=int(doubled[vertical]),
            faults=int(faults[vertical]),
        )
        for vertical, verdict in by_vertical("verdict").items()
    ]


def _read_warehouse(series: Series) -> WarehouseState:
    def find(name: str) -> float | None:
        return next((value for _, value in series.read(name)), None)

    def measure_age(event: str) -> float | None:
        at = find(f"datastream_warehouse_last_{event}_timestamp_seconds")
        return None if at is None else max(0.0, time.time() - at)

    failed = _to_int(find("datastream_dbt_failed_tests"))
    return WarehouseState(measure_age("ingested"), measure_age("backup"), failed)


def _to_int(value: float | None) -> int | None:
    return None if value is None else int(value)
