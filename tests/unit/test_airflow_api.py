"""Calls of Airflow's API: a busy Airflow is waited for, one that is not there is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from infra.local.runner import ports
from jobs import airflow_api
from jobs.errors import ServiceUnavailableError
from jobs.settings import Settings


@pytest.fixture
def httpserver() -> Iterator[HTTPServer]:
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def settings(httpserver: HTTPServer) -> Settings:
    return Settings(_env_file=None, airflow_port=httpserver.port)


@pytest.fixture
def busy(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An Airflow whose first answer comes too late; gives the paths of all requests."""
    monkeypatch.setattr(airflow_api, "_TIMEOUT_S", 1)
    paths: list[str] = []
    released = threading.Event()

    def sign_in(request: Request) -> Response:
        paths.append(request.path)
        if len(paths) == 1:
            released.wait(30)
        return Response('{"access_token": "token"}', 201, content_type="application/json")

    def start_run(request: Request) -> Response:
        paths.append(request.path)
        return Response("{}", 200, content_type="application/json")

    httpserver.expect_request("/auth/token").respond_with_handler(sign_in)
    httpserver.expect_request("/api/v2/dags/dag_x/dagRuns").respond_with_handler(start_run)
    yield paths
    released.set()


@pytest.fixture
def without_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: pytest.fail("it was tried again"))


def test_a_busy_airflow_is_asked_again(settings: Settings, busy: list[str]) -> None:
    airflow_api.trigger(settings, "dag_x", {})
    assert busy[:2] == ["/auth/token"] * 2
    assert busy[-1] == "/api/v2/dags/dag_x/dagRuns"


def test_a_busy_airflow_is_not_asked_for_ever(
    settings: Settings, busy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_api, "_BUSY_S", 0)
    with pytest.raises(ServiceUnavailableError, match="Read timed out"):
        airflow_api.trigger(settings, "dag_x", {})


def test_a_busy_airflow_is_not_asked_for_longer_than_a_run_may_take(
    settings: Settings, busy: list[str], without_retry: None
) -> None:
    with pytest.raises(ServiceUnavailableError, match="Read timed out"):
        airflow_api.wait_for_run(settings, "dag_x", "run", 0)


def test_a_run_is_not_started_without_airflow(without_retry: None) -> None:
    (port,) = ports.find_free(1)
    with pytest.raises(ServiceUnavailableError, match="Is it running"):
        airflow_api.trigger(Settings(_env_file=None, airflow_port=port), "dag_x", {})
