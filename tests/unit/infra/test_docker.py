"""The check before the Docker stack starts, and the error of a failed start, with a fake engine."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from infra.docker import compose, environment, preflight
from infra.docker.__main__ import app
from infra.preflight import Finding, PreflightError, demand, show
from jobs.errors import ServiceUnavailableError
from jobs.settings import ROOT, Settings

FakeDocker = Callable[..., None]
GIB = 2**30


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Puts a `docker` on the PATH that prints given answers by the start of its arguments, or fails."""

    def make(**answers: str) -> None:
        cases = [
            f"  {json.dumps(start.replace('_', ' '))}*) printf '%s\\n' '{text}' ;;" for start, text in answers.items()
        ]
        script = "\n".join(["#!/bin/sh", 'case "$*" in', *cases, "  *) echo no >&2; exit 1 ;;", "esac", ""])
        file = tmp_path / "docker"
        file.write_text(script)
        file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return make


def settings(**changes: object) -> Settings:
    return Settings(_env_file=None, **changes)  # type: ignore[arg-type]


def finding(name: str, findings: list[Finding]) -> Finding:
    (one,) = [finding for finding in findings if finding.check == name]
    return one


def test_a_missing_docker_is_reported_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = preflight.run_checks(settings())
    assert "make demo" in finding("Docker", findings).text
    assert not finding("Docker", findings).fits
    assert not finding("Compose", findings).fits
    with pytest.raises(PreflightError, match="No Docker engine answers"):
        demand(findings)


@pytest.mark.parametrize(
    ("engine", "plugin", "memory", "faults"),
    [
        ("28.2.2", "v2.39.4", 8 * GIB, []),
        ("20.10.24+dfsg1", "5.5.1", 8 * GIB, []),
        ("19.03.1", "2.39.4", 8 * GIB, ["Docker"]),
        ("28.2.2", "2.3.3", 8 * GIB, ["Compose"]),
        ("28.2.2", "1.29.2", 8 * GIB, ["Compose"]),
        ("28.2.2", "2.39.4", 2 * GIB, ["Memory"]),
        # Docker Desktop with 4 GiB reports what its kernel leaves.
        ("28.2.2", "2.39.4", int(3.837 * GIB), []),
        ("28.2.2", "2.39.4", 3 * GIB, ["Memory"]),
    ],
)
def test_old_versions_and_too_little_memory_are_rejected(
    fake_docker: FakeDocker, engine: str, plugin: str, memory: int, faults: list[str]
) -> None:
    fake_docker(version=engine, compose_version=plugin, **{"info --format {{.MemTotal}}": str(memory)})
    findings = preflight.run_checks(settings())
    assert [
        finding.check for finding in findings if not finding.fits and finding.check in {"Docker", "Compose", "Memory"}
    ] == faults


def test_a_full_disk_is_rejected(fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_docker(version="28.2.2", **{"info --format {{.DockerRootDir}}": str(tmp_path)})
    assert finding("Disk", preflight.run_checks(settings())).fits
    monkeypatch.setattr(preflight, "DISK_GB", 10**6)
    fault = finding("Disk", preflight.run_checks(settings()))
    assert not fault.fits
    assert "docker system df" in fault.text


@pytest.mark.skipif(not Path("/proc/sys/vm/max_map_count").exists(), reason="not Linux")
def test_a_low_max_map_count_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MAX_MAP_COUNT", 1)
    assert not finding("vm.max_map_count", preflight.run_checks(settings())).is_advice
    monkeypatch.setattr(preflight, "MAX_MAP_COUNT", 10**12)
    advice = finding("vm.max_map_count", preflight.run_checks(settings()))
    assert advice.fits
    assert advice.is_advice
    assert "sudo sysctl -w vm.max_map_count=1000000000000" in advice.text


@pytest.mark.parametrize(("version", "fits"), [("9.5.3", True), ("9.9.0", True), ("8.14.3", False), ("10.0.0", False)])
def test_another_elasticsearch_major_version_is_rejected(version: str, fits: bool) -> None:
    fault = finding("Elasticsearch", preflight.run_checks(settings(es_version=version)))
    assert fault.fits == fits
    if not fits:
        assert f"ES_VERSION={version}" in fault.text


def test_a_taken_port_is_reported_with_its_owner(fake_docker: FakeDocker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fault = finding("KIBANA_PORT", preflight.run_checks(settings(kibana_port=port)))
        assert not fault.fits
        assert f"port {port}" in fault.text
        assert f"pid {os.getpid()}" in fault.text
        assert "set KIBANA_PORT in .env" in fault.text
        assert "make local-down" in fault.text

        fake_docker(compose_config='{"name": "mine"}', ps=f"other\t{ROOT}\tother-kibana-1")
        fault = finding("KIBANA_PORT", preflight.run_checks(settings(kibana_port=port)))
        assert not fault.fits
        assert "the container other-kibana-1" in fault.text

        fake_docker(compose_config='{"name": "mine"}', ps=f"mine\t{ROOT}\tmine-kibana-1")
        assert finding("KIBANA_PORT", preflight.run_checks(settings(kibana_port=port))).fits

        fake_docker(compose_config='{"name": "mine"}', ps="mine\t/elsewhere\tmine-kibana-1")
        fault = finding("KIBANA_PORT", preflight.run_checks(settings(kibana_port=port)))
        assert not fault.fits
        assert "another checkout, /elsewhere" in fault.text
        assert "COMPOSE_PROJECT_NAME" in fault.text


def test_two_settings_with_the_same_port_are_rejected() -> None:
    fault = finding("Ports", preflight.run_checks(settings(kibana_port=8080, kafka_ui_port=8080)))
    assert "KAFKA_UI_PORT and KIBANA_PORT are both 8080" in fault.text


def test_the_target_of_objects_is_reported(tmp_path: Path) -> None:
    def storage(**changes: object) -> Finding:
        return finding("Cloud Storage", preflight.run_checks(settings(**changes)))

    key = tmp_path / "key.json"
    google = {"gcs_bucket": "mine", "google_application_credentials": str(key)}
    assert storage().text == "the emulator"
    assert not storage(**google).fits, "there is no such file"
    key.write_text("{}")
    assert storage(**google).fits
    assert "gs://mine" in storage(**google).text
    assert storage(gcs_bucket="mine").is_advice, "no key: the emulator, which may not be what was meant"
    assert storage(gcs_bucket="mine", cloud_storage="google").is_advice, "no key: a workload's identity"


def test_a_failed_check_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "FILE", tmp_path / ".env")
    monkeypatch.setattr(environment, "LINK", tmp_path / "link")
    with pytest.raises(PreflightError):
        app(["up"], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_compose_files_are_reported(fake_docker: FakeDocker) -> None:
    fake_docker(version="28.2.2", compose_version="2.39.4")
    assert "docker compose config" in finding("Compose files", preflight.run_checks(settings())).text


def test_findings_are_shown_with_their_severity() -> None:
    console = Console(record=True, width=80, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 (as long as the test)
    show([Finding("a", True, "b"), Finding("c", True, "d", is_advice=True), Finding("e", False, "[f]")], console)
    assert console.export_text() == "✓ a: b\n! c: d\n✗ e: [f]\n"


# --- A failed start -------------------------------------------------------------------------------


def container(service: str, state: str, health: str = "", exit_code: int = 0) -> str:
    return json.dumps({"Service": service, "State": state, "Health": health, "ExitCode": exit_code})


def test_a_failed_start_shows_the_log_of_the_failed_service(fake_docker: FakeDocker) -> None:
    containers = [
        container("kafka", "running", "healthy"),
        container("elasticsearch", "running", "starting"),
        container("kafka-init", "exited"),
        container("airflow-init", "exited", exit_code=1),
        container("airflow-scheduler", "created"),
    ]
    fake_docker(
        **{
            "compose build": "",
            "compose ps --all": "\n".join(containers),
            "compose logs --no-log-prefix --tail 15 airflow-init": "why it failed",
        }
    )
    with pytest.raises(ServiceUnavailableError) as failure:
        compose.up()
    text = str(failure.value)
    assert "airflow-init (exited with 1). The end of its log:\n  why it failed" in text
    assert "elasticsearch" not in text, "it was only still starting"


def test_unhealthy_services_are_reported(fake_docker: FakeDocker) -> None:
    containers = [
        container("kafka", "running", "healthy"),
        container("kafka-init", "exited"),
        container("airflow-scheduler", "exited"),
        container("kibana-init", "exited", exit_code=1),
    ]
    names = "kafka kafka-init kibana-init airflow-scheduler postgres"
    fake_docker(**{"compose ps --all": "\n".join(containers), "compose config --services": names})
    assert set(compose.list_faults()) == {
        "airflow-scheduler is exited",  # stopped by hand: it ends with 0
        "kibana-init is exited",
        "postgres has no container",
    }


def test_a_service_that_never_gets_healthy_is_shown(fake_docker: FakeDocker) -> None:
    fake_docker(
        **{
            "compose build": "",
            "compose ps --all": container("kibana", "running", "starting"),
            "compose logs --no-log-prefix --tail 15 kibana": "waiting",
        }
    )
    with pytest.raises(ServiceUnavailableError, match=r"kibana \(starting\). The end of its log:\n  waiting"):
        compose.up()


def test_a_failed_image_build_is_reported(fake_docker: FakeDocker) -> None:
    fake_docker()
    with pytest.raises(ServiceUnavailableError, match="did not build the images"):
        compose.up()
