"""The services without Docker: what they declare, and one command at a time for each stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from pytest_httpserver import HTTPServer
from rich.console import Console

from infra.local.isolation import isolated_settings
from infra.local.runner import ports
from infra.local.runner import stack as runner_stack
from infra.local.runner.errors import BusyError
from infra.local.runner.health import find_fault, get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Service
from infra.local.runner.start import sort_into_waves
from infra.local.services.catalog import SERVICES, local_stack
from jobs.errors import ConfigurationError
from jobs.settings import ROOT, Settings
from jobs.verticals import find_verticals, merge_settings
from tests.testkit.wait import until

NAMES = [service.name for service in SERVICES]
HOLDER = """
import sys, time
from filelock import FileLock
FileLock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(60)
"""


def service(name: str, *after: str) -> Service:
    return Service(
        name=name,
        title=name,
        setting="KAFKA_PORT",
        memory_mib=1,
        url=lambda _: "",
        expected_at=lambda _: "",
        build=lambda _: (),
        find_fault=lambda _: None,
        after=after,
    )


def waves(*services: Service) -> list[list[str]]:
    return [[one.name for one in wave] for wave in sort_into_waves(services)]


def test_services_start_after_those_that_they_depend_on() -> None:
    assert waves(service("c", "b"), service("a"), service("b", "a"), service("d")) == [["a", "d"], ["b"], ["c"]]
    assert waves(service("b", "absent")) == [["b"]]
    assert waves() == []
    assert waves(*SERVICES) == [
        [
            "kafka",
            "elasticsearch",
            "gcs",
            "postgres",
            "redis",
            "mysql",
            "cassandra",
            "apis",
            "aws",
            "departures",
            "spark-driver",
            "alertmanager",
        ],
        ["logstash", "relay", "airflow", "superset"],
        ["exporter"],
        ["prometheus"],
    ]


@pytest.mark.parametrize("declared", SERVICES, ids=NAMES)
def test_a_service_names_settings_and_services_that_exist(declared: Service) -> None:
    fields = merge_settings().model_fields
    assert {declared.setting.lower(), *declared.isolation} <= fields.keys()
    assert set(declared.after) < set(NAMES)
    assert f"{declared.setting}=" in (ROOT / ".env.example").read_text()


def test_names_of_services_ports_and_processes_are_distinct() -> None:
    processes = [name for declared in SERVICES for name in declared.process_names]
    for names in (NAMES, processes, [declared.setting for declared in SERVICES]):
        assert len(set(names)) == len(names)


def test_verticals_need_services_that_exist() -> None:
    for vertical in find_verticals():
        assert vertical.services, vertical.name
        assert set(vertical.services) <= set(NAMES), vertical.name


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({}, set()),
        ({"kafka_bootstrap_servers": "localhost:29092", "elasticsearch_url": "http://127.0.0.1:9200/"}, set()),
        ({"kafka_bootstrap_servers": "broker.example:29092"}, {"kafka"}),
        ({"elasticsearch_url": "http://127.0.0.1:9201"}, {"elasticsearch"}),
        ({"gcs_emulator_url": "http://storage.example:4443"}, {"gcs"}),
        ({"cloud_storage": "google"}, {"gcs"}),
    ],
)
def test_only_services_that_clients_expect_here_are_local(changes: dict[str, str], absent: set[str]) -> None:
    settings = merge_settings().model_construct(**changes)
    assert set(local_stack(settings).find_local(NAMES)) == set(NAMES) - absent


def test_an_isolated_stack_has_every_service_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker.example:9092")
    monkeypatch.setenv("ELASTICSEARCH_URL", "https://search.example")
    monkeypatch.setenv("CLOUD_STORAGE", "google")
    settings = isolated_settings(tmp_path)
    assert local_stack(settings).find_local(NAMES) == NAMES
    assert len({declared.port(settings) for declared in SERVICES}) == len(SERVICES)


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown service kafak\. The services are kafka, elasticsearch"):
        local_stack(Settings()).choose(["kafak", "gcs"])


def test_health_checks_ignore_proxies(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    httpserver.expect_request("/health").respond_with_json({"status": "green"})
    assert get_json(httpserver.url_for("/health")) == {"status": "green"}


def test_a_failed_health_check_is_a_fault(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/busy").respond_with_data(status=503)
    httpserver.expect_request("/page").respond_with_data("<html>")
    httpserver.expect_request("/good").respond_with_json({})

    def fault(url: str) -> str:
        return find_fault(replace(service("a"), find_fault=lambda _: get_json(url) or None), Settings()) or "no fault"

    assert fault(httpserver.url_for("/good")) == "no fault"
    assert fault(httpserver.url_for("/busy")).startswith("answers 503")
    assert fault(httpserver.url_for("/page")) == "its answer is not JSON"
    assert fault("http://127.0.0.1:1") == "does not answer"


def test_a_private_port_is_kept_until_another_program_takes_it(httpserver: HTTPServer, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.run.mkdir()
    port = ports.pick_private(paths, "inner")
    ports.forget_taken(paths)
    assert ports.pick_private(paths, "inner") == port
    (paths.run / "inner.port").write_text(str(httpserver.port))
    ports.forget_taken(paths)
    assert ports.pick_private(paths, "inner") != httpserver.port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(datastream_state=tmp_path / "state")


def test_a_command_waits_for_another_one(settings: Settings) -> None:
    lock = FileLock(Paths(settings.datastream_state).lock, thread_local=False)
    printed = StringIO()
    with ThreadPoolExecutor(1) as pool:
        with lock:
            stopped = pool.submit(local_stack(settings, Console(file=printed)).down)
            until(lambda: "waiting for another command" in printed.getvalue(), "a line that it waits")
            assert not stopped.done()
        assert stopped.result(5) is False


def test_a_command_gives_up_when_another_one_does_not_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_stack, "LOCK_S", 0.2)
    with (
        FileLock(Paths(settings.datastream_state).lock),
        pytest.raises(BusyError, match=r"Another command has been starting or stopping.*try again"),
    ):
        local_stack(settings).down()


def test_the_lock_of_a_killed_command_is_free(settings: Settings) -> None:
    file = Paths(settings.datastream_state).lock
    file.parent.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert local_stack(settings).down() is False


def test_clean_deletes_the_state_folder_and_nothing_of_others(settings: Settings) -> None:
    state = settings.datastream_state
    for name in ("kafka", "elasticsearch", "gcs", "airflow", "run", "logs", "secrets", "tmp", "staging"):
        (state / name / "inner").mkdir(parents=True)
    local_stack(settings).clean()
    assert not state.exists()
    state.mkdir()
    (state / "mine").touch()
    local_stack(settings).clean()
    assert [path.name for path in state.iterdir()] == ["mine"]


def test_a_command_that_waits_for_clean_gets_the_lock(settings: Settings, tmp_path: Path) -> None:
    """Waiting commands must not end with the deleted folder, or share a lock."""
    held = tmp_path / "held"

    def enter_and_clean() -> None:
        for _ in range(5):
            with local_stack(settings)._lock():
                held.touch(exist_ok=False)
                held.unlink()
            local_stack(settings).clean()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(enter_and_clean) for _ in range(4)]:
            done.result(60)
    assert not settings.datastream_state.exists()
