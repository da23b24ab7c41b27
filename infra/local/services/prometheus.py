"""Prometheus and Alertmanager, if this machine has their programs: no package registry of Python or Java has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from infra.alertmanager import make_configuration
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.health import TIMEOUT_S, get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.local.services import kafka
from infra.preflight import Finding
from jobs.clients import make_local_session
from jobs.settings import LOOPBACK, ROOT

RULES = ROOT / "infra" / "prometheus" / "rules"
# As in infra/prometheus/prometheus.yml.
INTERVAL = "15s"
RETENTION = ("--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=1GB")
# The programs by service; Debian calls the second one prometheus-alertmanager.
PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("alertmanager", "prometheus-alertmanager")}
REMEDY = (
    "Debian and Ubuntu: `apt install prometheus prometheus-alertmanager`; macOS: `brew install prometheus "
    "alertmanager`; or put the programs of https://prometheus.io/download on the PATH. `make status` works without."
)


def find_program(service: str) -> str | None:
    """The path of a service's program; None if it is not on the PATH."""
    return next(filter(None, map(shutil.which, PROGRAMS[service])), None)


def describe_missing(service: str) -> str:
    """What to say if a service's program is not on the PATH."""
    return f"{service.title()} is not installed. {REMEDY}"


def _demand_program(service: str) -> str:
    program = find_program(service)
    if program is None:
        raise ServiceFailedError(describe_missing(service))
    return program


def _check_for(service: str) -> list[Finding]:
    if find_program(service):
        return []
    return [Finding(service.title(), False, describe_missing(service))]


def _build_prometheus(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    folder = paths.service("prometheus")
    configuration, rules = paths.run / "prometheus.yml", paths.run / "rules"
    process = Process(
        name="prometheus",
        command=[
            _demand_program("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={folder}",
            *RETENTION, f"--web.listen-address={LOOPBACK}:{settings.observability_prometheus_port}",
        ],
        environment={},
        folder=folder,
        files={configuration: make_prometheus_configuration(settings, rules, INTERVAL), **_copy_rules(rules)},
    )  # fmt: skip
    return (process,)


def make_prometheus_configuration(settings: Any, rules: Path, interval: str) -> str:
    """The configuration as YAML.

    Args:
        rules: the folder with the rule files.
        interval: between two scrapes, and two evaluations of the rules.
    """
    targets = {
        "kafka": kafka.metrics_port(Paths(settings.datastream_state)),
        # It also has the series that the exporters of the other jobs, and the flights' relay, serve in Docker.
        "datastream": settings.observability_exporter_port,
        "prometheus": settings.observability_prometheus_port,
        "alertmanager": settings.observability_alertmanager_port,
    }
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(rules / file.name) for file in sorted(RULES.glob("*.yml"))],
        "alerting": {"alertmanagers": [_static(settings.observability_alertmanager_port)]},
        "scrape_configs": [{"job_name": job, **_static(port)} for job, port in targets.items()],
    }
    return yaml.safe_dump(configuration, sort_keys=False)


def _static(port: int) -> dict[str, Any]:
    return {"static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}]}


def _copy_rules(folder: Path) -> dict[Path, str]:
    """The rule files, as files of the process: a change of a rule is then a reason for a restart."""
    return {folder / file.name: file.read_text(encoding="utf-8") for file in sorted(RULES.glob("*.yml"))}


def _build_alertmanager(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    folder = paths.service("alertmanager")
    configuration = paths.secrets / "alertmanager.yml"
    process = Process(
        name="alertmanager",
        command=[
            _demand_program("alertmanager"), f"--config.file={configuration}", f"--storage.path={folder}",
            f"--web.listen-address={LOOPBACK}:{settings.observability_alertmanager_port}",
            "--cluster.listen-address=",
        ],
        environment={},
        folder=folder,
        files={configuration: make_configuration(settings)},
    )  # fmt: skip
    return (process,)


def _find_prometheus_fault(settings: Any) -> str | None:
    url = _prometheus_url(settings)
    make_local_session().get(f"{url}/-/ready", timeout=TIMEOUT_S).raise_for_status()
    flags = get_json(f"{url}/api/v1/status/flags")["data"]
    ours = str(Paths(settings.datastream_state).service("prometheus"))
    return None if flags["storage.tsdb.path"] == ours else f"{url} is another Prometheus"


def _find_alertmanager_fault(settings: Any) -> None:
    make_local_session().get(f"{_alertmanager_url(settings)}/-/ready", timeout=TIMEOUT_S).raise_for_status()


def _prometheus_url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.observability_prometheus_port}"


def _alertmanager_url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.observability_alertmanager_port}"


PROMETHEUS = Service(
    name="prometheus",
    title="Prometheus",
    setting="OBSERVABILITY_PROMETHEUS_PORT",
    memory_mib=120,
    url=_prometheus_url,
    expected_at=_prometheus_url,
    build=_build_prometheus,
    check=lambda _: _check_for("prometheus"),
    find_fault=_find_prometheus_fault,
    # Its configuration has Kafka's port for metrics.
    after=("kafka", "exporter", "alertmanager"),
)
ALERTMANAGER = Service(
    name="alertmanager",
    title="Alertmanager",
    setting="OBSERVABILITY_ALERTMANAGER_PORT",
    memory_mib=60,
    url=_alertmanager_url,
    expected_at=_alertmanager_url,
    build=_build_alertmanager,
    check=lambda _: _check_for("alertmanager"),
    find_fault=_find_alertmanager_fault,
)
