"""The Spark driver's server and its client, over HTTP, with a fake engine instead of Spark."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from infra.local.runner import ports
from jobs.errors import (
    ConfigurationError,
    DatastreamError,
    OffsetsError,
    ServiceUnavailableError,
    StagedFilesGoneError,
)
from jobs.inherited import make_environment
from jobs.rides.spark import driver as driver_module
from jobs.rides.spark.client import DriverClient
from jobs.rides.spark.driver import Batch, Server
from jobs.rides.spark.vertical import SparkSettings
from jobs.settings import LOOPBACK, ROOT
from tests.testkit.wait import DEADLINE_S, until

# A driver whose engine ends by itself as soon as it is asked, if the first argument is `dies`.
PROGRAM = """
import logging, sys
from contextlib import contextmanager
from jobs.errors import DatastreamError
from jobs.rides.spark.driver import serve
from jobs.rides.spark.vertical import SparkSettings

class Engine:
    def is_alive(self):
        return sys.argv[1] != "dies"

@contextmanager
def open_engine():
    if sys.argv[1] == "starts":
        print("starting", flush=True)
        import time
        time.sleep(300)
    print("ready", flush=True)
    try:
        yield Engine()
    finally:
        raise OSError("Java has ended")

try:
    serve(SparkSettings(_env_file=None), "127.0.0.1", open_engine)
except DatastreamError as error:
    sys.exit(str(error))
"""


class FakeEngine:
    """Prices when the test lets it."""

    def __init__(self) -> None:
        self.outcome: str | BaseException = "file:///priced"
        self.begun: list[Batch] = []
        self.may_end = threading.Event()
        self.cancels = 0

    def price(self, batch: Batch) -> str:
        self.begun.append(batch)
        assert self.may_end.wait(DEADLINE_S)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def describe_progress(self) -> str:
        return "priced 1 of 6 partitions"

    def cancel(self) -> None:
        self.cancels += 1
        if self.cancels == 2:  # the first time, the job has not begun yet
            self.may_end.set()

    def is_alive(self) -> bool:
        return True


@pytest.fixture
def settings(tmp_path: Path) -> SparkSettings:
    (port,) = ports.find_free(1)
    return SparkSettings(_env_file=None, datastream_state=tmp_path, spark_driver_port=port)


@pytest.fixture
def server(settings: SparkSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(driver_module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(driver_module, "WRITE_EVERY_S", 0)
    with Server(settings, LOOPBACK) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.stop()


@pytest.fixture
def engine(server: Server) -> FakeEngine:
    engine = FakeEngine()
    server.use(engine)
    return engine


@pytest.fixture
def staging(settings: SparkSettings) -> str:
    return settings.staging


Ask = Callable[..., str]


@pytest.fixture
def ask(settings: SparkSettings) -> Ask:
    """Price a manifest of that name; `log` receives the progress."""

    def ask(name: str = "manifest.json", log: Callable[[str], object] = str) -> str:
        url = f"{settings.staging}/run/{name}"
        return DriverClient(settings.driver_url, log).price(url, f"{settings.staging}/run/out", "geodesic")

    return ask


def test_a_client_gets_the_progress_and_the_manifest(engine: FakeEngine, ask: Ask, staging: str) -> None:
    lines: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        priced = pool.submit(ask, log=lines.append)
        until(lambda: bool(lines), "progress")
        engine.may_end.set()
        assert priced.result(DEADLINE_S) == "file:///priced"
    assert lines == ["priced 1 of 6 partitions"], "a repeated line is logged once"
    assert engine.begun == [Batch(f"{staging}/run/manifest.json", f"{staging}/run/out", "geodesic")]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigurationError("no source"), ConfigurationError),
        (ServiceUnavailableError("no broker"), ServiceUnavailableError),
        (StagedFilesGoneError("was deleted"), StagedFilesGoneError),
        (OffsetsError("was recreated"), ServiceUnavailableError),
        (ValueError("unexpected"), ServiceUnavailableError),
    ],
)
def test_an_error_keeps_its_kind(engine: FakeEngine, ask: Ask, error: Exception, kind: type[DatastreamError]) -> None:
    engine.outcome = error
    engine.may_end.set()
    with pytest.raises(kind, match=str(error)):
        ask()


@pytest.mark.parametrize(
    "url",
    [
        "{state}/manifest.json",
        "{staging}",
        "{staging}-other/manifest.json",
        "{staging}/../secrets/manifest.json",
        "{staging}/%2e%2e/secrets/manifest.json",
        "{staging}/manifest.json?endpoint_override=example.org",
        "gs://bucket/manifest.json",
        "https://example.org/manifest.json",
        "no url",
        "",
    ],
)
@pytest.mark.parametrize("field", ["manifest", "folder"])
def test_foreign_urls_are_refused(engine: FakeEngine, settings: SparkSettings, url: str, field: str) -> None:
    engine.may_end.set()
    url = url.format(staging=settings.staging, state=settings.datastream_state.as_uri())
    urls = {"manifest": f"{settings.staging}/a/manifest.json", "folder": f"{settings.staging}/a/out"} | {field: url}
    with pytest.raises(ConfigurationError, match=r"is outside of .*/staging, the STAGING_URL of the Spark driver"):
        DriverClient(settings.driver_url, str).price(urls["manifest"], urls["folder"], "haversine")
    assert engine.begun == []


def test_an_unknown_distance_method_is_refused(engine: FakeEngine, settings: SparkSettings) -> None:
    urls = f"{settings.staging}/manifest.json", f"{settings.staging}/out"
    with pytest.raises(ConfigurationError, match="DISTANCE_METHOD='straight'"):
        DriverClient(settings.driver_url, str).price(*urls, "straight")
    assert engine.begun == []


def send(settings: SparkSettings, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, settings.spark_driver_port, timeout=DEADLINE_S)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_requests_that_are_not_valid_are_refused(engine: FakeEngine, settings: SparkSettings) -> None:
    batch = {"manifest": f"{settings.staging}/m", "folder": f"{settings.staging}/f", "distance_method": "haversine"}
    for body, kind in (
        (json.dumps(batch), "text/plain"),
        ("{", "application/json"),
        ("{}", "application/json"),
        (json.dumps(batch | {"topic": "mine"}), "application/json"),
        (" " * 2**17, "application/json"),
    ):
        status, text = send(settings, "POST", "/batches", body, **{"Content-Type": kind})
        assert (status, json.loads(text)["kind"]) == (400, "configuration"), body[:40]
    assert send(settings, "POST", "/other", "{}", **{"Content-Type": "application/json"})[0] == 400
    assert send(settings, "GET", "/other")[0] == 404
    assert engine.begun == []


def test_an_engine_that_does_not_answer_is_not_healthy(
    server: Server, engine: FakeEngine, settings: SparkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(settings, "GET", "/health")[0] == 200
    with monkeypatch.context() as patched:
        patched.setattr(driver_module, "FROZEN_S", 0)
        status, text = send(settings, "GET", "/health")
    assert (status, json.loads(text)["status"]) == (503, "frozen")
    assert server.check_engine()
    assert send(settings, "GET", "/health")[0] == 200


def test_clients_wait_for_the_start_and_for_each_other(server: Server, settings: SparkSettings, ask: Ask) -> None:
    assert send(settings, "GET", "/health")[0] == 503
    engine, first_lines, second_lines = FakeEngine(), list[str](), list[str]()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, "first", first_lines.append)
        until(lambda: first_lines == ["Spark is starting"], "a client that waits for Spark")
        server.use(engine)
        assert send(settings, "GET", "/health") == (200, '{"service": "spark-driver", "status": "ready"}\n')
        until(lambda: len(engine.begun) == 1, "the first claim")
        second = pool.submit(ask, "second", second_lines.append)
        until(lambda: second_lines == ["waiting for another claim"], "a client that waits for the other one")
        assert len(engine.begun) == 1
        engine.may_end.set()
        assert first.result(DEADLINE_S) == second.result(DEADLINE_S) == "file:///priced"
    assert [Path(batch.manifest).name for batch in engine.begun] == ["first", "second"]


def test_the_work_of_a_client_that_goes_away_is_cancelled(
    engine: FakeEngine, settings: SparkSettings, ask: Ask, staging: str
) -> None:
    lines: list[str] = []
    client = DriverClient(settings.driver_url, lines.append)
    with ThreadPoolExecutor(1) as pool:
        priced = pool.submit(client.price, f"{staging}/manifest.json", f"{staging}/out", "haversine")
        until(lambda: bool(lines), "progress")
        client.close()
        with pytest.raises(ServiceUnavailableError, match=r"was closed .*: this task was ended. Nothing was committed"):
            priced.result(DEADLINE_S)
    assert ask() == "file:///priced", "the next one does not wait for the work of the first"
    assert engine.cancels == 2


def test_a_server_that_stops_cancels_its_work(server: Server, engine: FakeEngine, ask: Ask) -> None:
    with ThreadPoolExecutor(1) as pool:
        priced = pool.submit(ask)
        until(lambda: bool(engine.begun), "work")
        server.stop()
        with pytest.raises(ServiceUnavailableError, match="The Spark driver was stopped"):
            priced.result(DEADLINE_S)
    assert engine.cancels == 2


# --- The client alone -----------------------------------------------------------------------------


def price(url: str, **options: float) -> str:
    return DriverClient(url, str, **options).price("file:///a", "file:///b", "haversine")


def test_without_a_driver_the_error_names_the_profile_and_the_remedy() -> None:
    (port,) = ports.find_free(1)
    text = r"No Spark driver answers .*profile spark.*docker compose --profile spark up -d --wait.*make spark-demo"
    with pytest.raises(ServiceUnavailableError, match=text):
        price(f"http://{LOOPBACK}:{port}")


def test_a_driver_that_hangs_is_given_up() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
        with pytest.raises(ServiceUnavailableError, match="sent nothing for 0 s: it hangs"):
            price(url, silence_s=0.1)


def test_another_program_on_the_port_is_named(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/batches").respond_with_data("<html>", status=404)
    with pytest.raises(ServiceUnavailableError, match="is not the Spark driver: it answers '<html>'"):
        price(httpserver.url_for("").rstrip("/"))


def test_an_answer_without_an_end_is_an_error(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/batches").respond_with_data('{"progress": "priced 1 of 6 partitions"}\n')
    with pytest.raises(ServiceUnavailableError, match="was closed before its answer: the driver ended"):
        price(httpserver.url_for("").rstrip("/"))


# --- The process ----------------------------------------------------------------------------------


def start(mode: str, settings: SparkSettings) -> subprocess.Popen[str]:
    variables = {"SPARK_DRIVER_PORT": str(settings.spark_driver_port), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode], env=make_environment(variables), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "line"), [("lives", "ready\n"), ("starts", "starting\n")])
def test_a_signal_ends_the_process_cleanly(settings: SparkSettings, mode: str, line: str) -> None:
    with start(mode, settings) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")


def test_the_end_of_spark_ends_the_process_with_a_message(settings: SparkSettings) -> None:
    with start("dies", settings) as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert errors.startswith("Spark has ended by itself: ")


def test_a_taken_port_is_named(server: Server, settings: SparkSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on .* Set SPARK_DRIVER_PORT"):
        Server(settings, LOOPBACK)
