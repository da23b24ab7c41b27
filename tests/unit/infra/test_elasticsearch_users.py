"""Signing in to set Elasticsearch up; a fake stands in for it, because the node without Docker has no security."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from infra.elasticsearch import __main__ as users
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.settings import Settings


class FakeElasticsearch(ThreadingHTTPServer):
    """Knows one password of `elastic`, and answers 401 to that one too, as often as it is told to."""

    password = "changeme"  # noqa: S105 (not a real one)
    refusals = 0


class _Handler(BaseHTTPRequestHandler):
    server: FakeElasticsearch

    def do_GET(self) -> None:
        given = base64.b64decode(self.headers["authorization"].removeprefix("Basic ")).decode()
        is_right = given == f"elastic:{self.server.password}"
        if is_right and self.server.refusals:
            self.server.refusals -= 1
            is_right = False
        body = json.dumps({"username": "elastic"} if is_right else {"error": "unable to authenticate"}).encode()
        self.send_response(200 if is_right else 401)
        self.send_header("x-elastic-product", "Elasticsearch")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeElasticsearch]:
    with FakeElasticsearch(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def settings(fake: FakeElasticsearch, password: str) -> Settings:
    return Settings(_env_file=None, elasticsearch_url=f"http://127.0.0.1:{fake.server_port}", elastic_password=password)  # type: ignore[call-arg]


@pytest.mark.parametrize("held", ["wanted", "changeme"])
def test_the_configured_and_the_development_password_are_tried(fake: FakeElasticsearch, held: str) -> None:
    fake.password = held
    assert users.sign_in(settings(fake, "wanted")).security.authenticate()["username"] == "elastic"


def test_a_node_that_has_just_started_is_retried(fake: FakeElasticsearch) -> None:
    fake.refusals = 2
    assert users.sign_in(settings(fake, "wanted")).security.authenticate()["username"] == "elastic"
    assert fake.refusals == 0


def test_a_wrong_password_is_reported_with_the_remedy(fake: FakeElasticsearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "READY_S", 0.1)
    fake.password = "lost"  # noqa: S105
    with pytest.raises(ConfigurationError, match=r"ELASTIC_PASSWORD .*elasticsearch-reset-password.*make clean"):
        users.sign_in(settings(fake, "wanted"))


def test_an_unreachable_elasticsearch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "READY_S", 0.1)
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9: not ready"):
        users.sign_in(Settings(_env_file=None, elasticsearch_url="http://127.0.0.1:9"))  # type: ignore[call-arg]
