"""What can be known to go wrong before the stack is started."""

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
COMPOSE = (2, 21)  # `include`, and `ps` with one container a line
# The limits of docker-compose.yml add up to 6 GiB, which the stack does not reach: it was seen to take 2.6 GiB.
MEMORY_GIB = 4.0
DISK_GB = 12.0
MAX_MAP_COUNT = 262_144

PORTS = {
    "KAFKA_PORT": "Kafka",
    "KAFKA_UI_PORT": "Kafka-UI",
    "ELASTICSEARCH_PORT": "Elasticsearch",
    "KIBANA_PORT": "Kibana",
    "GCS_PORT": "the Cloud Storage emulator",
    "AIRFLOW_PORT": "Airflow",
}


def findings(settings: Settings) -> list[Finding]:
    """Every check. What needs the engine is left out when there is none."""
    engine = _engine()
    found = [engine, _compose()]
    if engine.fits:
        found += [_memory(), _disk()]
    return [
        *found,
        *_map_count(),
        _versions(settings),
        _storage(settings),
        *distinct_ports((name, getattr(settings, name.lower())) for name in PORTS),
        *_ports(settings),
    ]


def _engine() -> Finding:
    version = _docker("version", "--format", "{{.Server.Version}}")
    if version is None:
        return Finding(
            "Docker", False, "No Docker engine answers. Start Docker Desktop, or `sudo systemctl start docker`; if it "
            "runs, your user may have to join the group docker. Without Docker: `make demo`."
        )  # fmt: skip
    if _numbers(version) < ENGINE:
        return Finding("Docker", False, f"Docker {version} is too old: {_dotted(ENGINE)} or newer is needed.")
    return Finding("Docker", True, f"engine {version}")


def _compose() -> Finding:
    version = _docker("compose", "version", "--short")
    if version is None:
        return Finding("Compose", False, "`docker compose` is not there. Install the plugin docker-compose-plugin.")
    if _numbers(version) < COMPOSE:
        return Finding("Compose", False, f"Compose {version} is too old: {_dotted(COMPOSE)} or newer is needed.")
    return Finding("Compose", True, version)


def _memory() -> Finding:
    """What the engine may use: on macOS and Windows, that of its virtual machine."""
    total = int(_docker("info", "--format", "{{.MemTotal}}") or 0) / 2**30
    text = f"{total:.1f} GiB for Docker"
    if total >= MEMORY_GIB:
        return Finding("Memory", True, text)
    remedy = "Raise it in Docker Desktop (Settings, Resources), or use a machine with more."
    return Finding("Memory", False, f"Only {text}; {MEMORY_GIB:.0f} GiB are needed, 6 are better. {remedy}")


def _disk() -> Finding:
    root = Path(_docker("info", "--format", "{{.DockerRootDir}}") or "/")
    # On macOS and Windows it is inside the virtual machine: then this machine's own disk is looked at.
    place = root if root.exists() else Path.cwd()
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.1f} GB free at {place}"
    if free >= DISK_GB:
        return Finding("Disk", True, text)
    remedy = "`docker system df` tells what takes it; `docker image prune` and `docker builder prune` free some."
    return Finding("Disk", False, f"Only {text}; {DISK_GB:.0f} GB are needed. {remedy}")


def _map_count() -> list[Finding]:
    file = Path("/proc/sys/vm/max_map_count")
    if not file.exists():  # macOS: Docker Desktop's virtual machine has it set
        return []
    count = int(file.read_text())
    if count >= MAX_MAP_COUNT:
        return [Finding("vm.max_map_count", True, str(count))]
    advice = (
        f"{count}: this single node starts with it, but Elasticsearch asks for {MAX_MAP_COUNT}: "
        f"`sudo sysctl -w vm.max_map_count={MAX_MAP_COUNT}`. To keep it, write it into /etc/sysctl.d/99-datastream.conf"
    )
    return [Finding("vm.max_map_count", True, advice, is_advice=True)]


def _versions(settings: Settings) -> Finding:
    client = importlib.metadata.version("elasticsearch")
    server = settings.es_version
    text = f"server {server}, client {client}"
    if server.split(".")[0] == client.split(".")[0]:
        return Finding("Elasticsearch", True, text)
    major = client.split(".")[0]
    return Finding(
        "Elasticsearch", False,
        f"ES_VERSION={server} cannot be spoken to by the client {client}: set a {major}.x version in .env. For another "
        "one, change `elasticsearch` in pyproject.toml, run `make requirements`, and see docs/upgrade.md.",
    )  # fmt: skip


def _storage(settings: Settings) -> Finding:
    name, file = "Cloud Storage", settings.gcs_credentials_file
    if settings.gcs_endpoint is not None:
        if settings.gcs_bucket and settings.cloud_storage == "auto":
            advice = (
                f"the emulator: GCS_BUCKET={settings.gcs_bucket} is set, but no key. For Google's own, put the key "
                "into infra/datastream-sa-key.json and set GOOGLE_APPLICATION_CREDENTIALS=./datastream-sa-key.json"
            )
            return Finding(name, True, advice, is_advice=True)
        return Finding(name, True, "the emulator")
    if not settings.gcs_bucket:
        return Finding(name, False, "CLOUD_STORAGE=google needs a bucket: set GCS_BUCKET in .env.")
    if file is None:
        advice = "Google's own, with what this machine offers its containers as credentials"
        return Finding(name, True, advice, is_advice=True)
    if not file.is_file():
        return Finding(name, False, f"GOOGLE_APPLICATION_CREDENTIALS: there is no file {file}.")
    return Finding(name, True, f"Google's own, gs://{settings.bucket}, with the key {file}")


def _ports(settings: Settings) -> list[Finding]:
    project = _docker("compose", "config", "--format", "json")
    if project is None and _compose().fits:
        fault = "`docker compose config` fails, and tells why. Is a setting wrong in .env?"
        return [Finding("Compose files", False, fault)]
    name = json.loads(project)["name"] if project else ""
    return [_port(setting, what, getattr(settings, setting.lower()), name) for setting, what in PORTS.items()]


def _port(setting: str, what: str, port: int, project: str) -> Finding:
    if ports.is_free(port):
        return Finding(setting, True, f"{port} is free")
    labels = "\t".join(f'{{{{.Label "com.docker.compose.project{part}"}}}}' for part in ("", ".working_dir"))
    found = _docker("ps", "--filter", f"publish={port}", "--format", f"{labels}\t{{{{.Names}}}}") or "\t\t"
    owner, folder, container = found.split("\t")
    if container and owner == project:
        if Path(folder) in {ROOT, ROOT / "infra"}:
            return Finding(setting, True, f"{port} is held by this stack ({container})")
        return Finding(
            setting, False,
            f"{what}'s port {port} is in use by the stack of another checkout, {folder}, which is the same project "
            f"({project}): starting this one would take its containers and data over. Stop it there, or set "
            "COMPOSE_PROJECT_NAME and the ports in .env here.",
        )  # fmt: skip
    who = f"the container {container}"
    if not container:
        process = ports.find_holder(port)
        who = f"pid {process.pid} ({process.name()})" if process else "another user's process"
    return Finding(
        setting, False,
        f"{what}'s port {port} is in use by {who}. Stop that, or set {setting} in .env to a free port. The services "
        "without Docker (`make local-down` stops them) use the same ports by default: only one of the two can run.",
    )  # fmt: skip


def _docker(*arguments: str) -> str | None:
    """What the command prints, or None where it fails or is not there."""
    try:
        result = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
