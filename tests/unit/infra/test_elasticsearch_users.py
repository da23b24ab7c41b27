"""The init service signs in to Elasticsearch. A fake server stands in: the node without Docker has no security."""

from __future__ import annotations

import re

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from infra.elasticsearch import __main__ as users
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.settings import Settings


class FakeElasticsearch:
    """Accepts one password of `elastic`, after rejecting it `rejections` times with 401."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = f"http://{server.host}:{server.port}"
        self.password = "changeme"  # noqa: S105 (a development default)
        self.rejections = 0
        server.expect_request(re.compile("")).respond_with_handler(self.respond)

    def respond(self, request: Request) -> Response:
        login = request.authorization
        is_accepted = login is not None and (login.username, login.password) == ("elastic", self.password)
        if is_accepted and self.rejections:
            self.rejections -= 1
            is_accepted = False
        body = '{"username": "elastic"}' if is_accepted else '{"error": "unable to authenticate"}'
        headers = {"x-elastic-product": "Elasticsearch"}
        return Response(body, 200 if is_accepted else 401, headers, content_type="application/json")


@pytest.fixture
def fake(httpserver: HTTPServer) -> FakeElasticsearch:
    return FakeElasticsearch(httpserver)


def settings(fake: FakeElasticsearch, password: str) -> Settings:
    return Settings(_env_file=None, elasticsearch_url=fake.url, elastic_password=password)  # type: ignore[call-arg]


@pytest.mark.parametrize("held", ["wanted", "changeme"])
def test_the_configured_and_the_development_password_are_tried(fake: FakeElasticsearch, held: str) -> None:
    fake.password = held
    assert users.sign_in(settings(fake, "wanted")).security.authenticate()["username"] == "elastic"


def test_a_node_that_has_just_started_is_retried(fake: FakeElasticsearch) -> None:
    fake.rejections = 2
    assert users.sign_in(settings(fake, "wanted")).security.authenticate()["username"] == "elastic"
    assert fake.rejections == 0


def test_a_wrong_password_is_reported_with_the_remedy(fake: FakeElasticsearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "READY_S", 0.1)
    fake.password = "lost"  # noqa: S105
    with pytest.raises(ConfigurationError, match=r"ELASTIC_PASSWORD .*elasticsearch-reset-password.*make clean"):
        users.sign_in(settings(fake, "wanted"))


def test_an_unreachable_elasticsearch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "READY_S", 0.1)
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9: not ready"):
        users.sign_in(Settings(_env_file=None, elasticsearch_url="http://127.0.0.1:9"))  # type: ignore[call-arg]
