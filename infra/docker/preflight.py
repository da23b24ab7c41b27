"""Checks of this machine and the settings before the stack starts."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
from pathlib import Path

from infra.local.runner import ports
from infra.preflight import Finding, distinct_ports
from jobs.settings import ROOT, Settings

ENGINE = (20, 10)
COMPOSE = (2, 21)  # `include`, and `ps` with one container per line
# The memory limits add up to 6 GiB; the stack was measured at 2.6 GiB.
MEMORY_GIB = 4
# What a virtual machine of 4 GiB has left: its kernel and firmware take up to 170 MiB.
MIN_MEMORY_GIB = 3.7
# Unpacked images 8 GB, the same compressed (containerd keeps both) 3 GB, build cache 2 GB, data.
DISK_GB = 16.0
MAX_MAP_COUNT = 262_144

PORTS = {
    "KAFKA_PORT": "Kafka",
    "KAFKA_UI_PORT": "Kafka-UI",
    "ELASTICSEARCH_PORT": "Elasticsearch",
    "KIBANA_PORT": "Kibana",
    "GCS_PORT": "the Cloud Storage emulator",
    "AIRFLOW_PORT": "Airflow",
}


def run_checks(settings: Settings) -> list[Finding]:
    """The findings of every check; without an engine, those that need no engine."""
    engine = _check_engine()
    findings = [engine, _check_compose()]
    if engine.fits:
        findings += [_check_memory(), _check_disk()]
    return [
        *findings,
        *_check_map_count(),
        _check_versions(settings),
        _check_storage(settings),
        *distinct_ports((name, getattr(settings, name.lower())) for name in PORTS),
        *_check_ports(settings),
    ]


def _check_engine() -> Finding:
    version = _docker("version", "--format", "{{.Server.Version}}")
    if version is None:
        return Finding(
            "Docker", False, "No Docker engine answers. Start Docker Desktop, or run `sudo systemctl start docker`. If "
            "it is running, your user may have to join the group docker. Without Docker: `make demo`."
        )  # fmt: skip
    if _numbers(version) < ENGINE:
        return Finding("Docker", False, f"Docker {version} is too old. Install {_dotted(ENGINE)} or newer.")
    return Finding("Docker", True, f"engine {version}")


def _check_compose() -> Finding:
    version = _docker("compose", "version", "--short")
    if version is None:
        return Finding("Compose", False, "`docker compose` is missing. Install the plugin docker-compose-plugin.")
    if _numbers(version) < COMPOSE:
        return Finding("Compose", False, f"Compose {version} is too old. Install {_dotted(COMPOSE)} or newer.")
    return Finding("Compose", True, version)


def _check_memory() -> Finding:
    """The memory that the engine may use: on macOS and Windows, that of its virtual machine."""
    total = int(_docker("info", "--format", "{{.MemTotal}}") or 0) / 2**30
    text = f"{total:.1f} GiB for Docker"
    if total >= MIN_MEMORY_GIB:
        return Finding("Memory", True, text)
    remedy = "Raise it in Docker Desktop (Settings, Resources), or use a machine with more."
    return Finding("Memory", False, f"Only {text}; {MEMORY_GIB} GiB are needed, 6 are better. {remedy}")


def _check_disk() -> Finding:
    root = Path(_docker("info", "--format", "{{.DockerRootDir}}") or "/")
    # On macOS and Windows the folder is inside the virtual machine: check this machine's disk instead.
    place = root if root.exists() else Path.cwd()
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.1f} GB free at {place}"
    if free >= DISK_GB:
        return Finding("Disk", True, text)
    remedy = "`docker system df` shows what uses it; `docker image prune` and `docker builder prune` free some."
    return Finding("Disk", False, f"Only {text}; {DISK_GB:.0f} GB are needed. {remedy}")


def _check_map_count() -> list[Finding]:
    file = Path("/proc/sys/vm/max_map_count")
    if not file.exists():  # macOS: Docker Desktop's virtual machine sets it
        return []
    count = int(file.read_text())
    if count >= MAX_MAP_COUNT:
        return [Finding("vm.max_map_count", True, str(count))]
    advice = (
        f"{count}: enough for this single node, but Elasticsearch recommends {MAX_MAP_COUNT}: "
        f"`sudo sysctl -w vm.max_map_count={MAX_MAP_COUNT}`. To keep it, write it into /etc/sysctl.d/99-datastream.conf"
    )
    return [Finding("vm.max_map_count", True, advice, is_advice=True)]


def _check_versions(settings: Settings) -> Finding:
    client = importlib.metadata.version("elasticsearch")
    server = settings.es_version
    text = f"server {server}, client {client}"
    if server.split(".")[0] == client.split(".")[0]:
        return Finding("Elasticsearch", True, text)
    major = client.split(".")[0]
    return Finding(
        "Elasticsearch", False,
        f"ES_VERSION={server} does not work with the client {client}. Set a {major}.x version in .env. To use another "
        "major version, change `elasticsearch` in pyproject.toml, run `make requirements`, and see docs/upgrade.md.",
    )  # fmt: skip


def _check_storage(settings: Settings) -> Finding:
    name, file = "Cloud Storage", settings.gcs_credentials_file
    if settings.gcs_endpoint is not None:
        if settings.gcs_bucket and settings.cloud_storage == "auto":
            advice = (
                f"the emulator: GCS_BUCKET={settings.gcs_bucket} is set, but no key. To use Google's, put the key "
                "into infra/datastream-sa-key.json and set GOOGLE_APPLICATION_CREDENTIALS=./datastream-sa-key.json"
            )
            return Finding(name, True, advice, is_advice=True)
        return Finding(name, True, "the emulator")
    if file is None:
        advice = "Google's, with the credentials that this machine gives its containers"
        return Finding(name, True, advice, is_advice=True)
    if not file.is_file():
        return Finding(name, False, f"GOOGLE_APPLICATION_CREDENTIALS: the file {file} does not exist.")
    return Finding(name, True, f"Google's, gs://{settings.bucket}, with the key {file}")


def _check_ports(settings: Settings) -> list[Finding]:
    project = _docker("compose", "config", "--format", "json")
    if project is None and _check_compose().fits:
        fault = "`docker compose config` fails: run it to see the reason. Is a setting wrong in .env?"
        return [Finding("Compose files", False, fault)]
    name = json.loads(project)["name"] if project else ""
    return [_check_port(setting, title, getattr(settings, setting.lower()), name) for setting, title in PORTS.items()]


def _check_port(setting: str, title: str, port: int, project: str) -> Finding:
    if ports.is_free(port):
        return Finding(setting, True, f"{port} is free")
    labels = "\t".join(f'{{{{.Label "com.docker.compose.project{part}"}}}}' for part in ("", ".working_dir"))
    row = _docker("ps", "--filter", f"publish={port}", "--format", f"{labels}\t{{{{.Names}}}}") or "\t\t"
    owner, folder, container = row.split("\t")
    if container and owner == project:
        if Path(folder) in {ROOT, ROOT / "infra"}:
            return Finding(setting, True, f"{port} is used by this stack ({container})")
        return Finding(
            setting, False,
            f"{title}'s port {port} is in use by the stack of another checkout, {folder}, which has the same project "
            f"name ({project}): a start here would take over its containers and data. Stop it there, or set "
            "COMPOSE_PROJECT_NAME and the ports in .env here.",
        )  # fmt: skip
    who = f"the container {container}"
    if not container:
        process = ports.find_holder(port)
        who = f"pid {process.pid} ({process.name()})" if process else "another user's process"
    return Finding(
        setting, False,
        f"{title}'s port {port} is in use by {who}. Stop that, or set {setting} in .env to a free port. The services "
        "without Docker (`make local-down` stops them) use the same ports by default: only one of the two can run.",
    )  # fmt: skip


def _docker(*arguments: str) -> str | None:
    """What the command prints, or None if it fails or is not installed."""
    try:
        result = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
