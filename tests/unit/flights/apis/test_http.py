"""The HTTP client: retries, waits, charges."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.errors import ServiceUnavailableError
from jobs.flights.sources import http
from jobs.flights.sources.http import TRIES, Api, ApiClient, parse_body, read_path
from jobs.flights.vertical import FlightsSettings
from jobs.strict_json import RejectedError
from tests.testkit.apis import make_self_signed, raw_server
from tests.unit.flights.apis.conftest import FakeQuota


def client(settings: FlightsSettings, url: str = "", **changes: Any) -> ApiClient:
    values: dict[str, Any] = {
        "source": "test", "url": url or settings.flights_apis, "key_name": "key", "key": "SECRET 42/ü", "plans": (),
        "find_used_up": lambda _: None, "is_temporary": lambda _: False,
    }  # fmt: skip
    return ApiClient(settings, Api(**values | changes))


def get(settings: FlightsSettings, url: str = "", **changes: Any) -> httpx.Response:
    with client(settings, url, **changes) as opened:
        return opened.get("/data", {"lat": 1.5})


def answer(httpserver: HTTPServer, *responses: Response) -> None:
    for response in responses:
        httpserver.expect_ordered_request("/data").respond_with_response(response)


def test_the_key_is_added_and_nobody_sees_it(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    seen: list[str] = []

    def echo(request: Request) -> Response:
        seen.append(request.args["key"])
        url = request.url + " SECRET 42/ü SECRET%2042%2f%C3%BC SECRET 42\\u002fü"
        return Response(url, headers={"Location": request.url, "X-Url": "SECRET 42", "Set-Cookie": "a=SECRET 42"})

    httpserver.expect_request("/data").respond_with_handler(echo)
    response = get(settings)
    assert seen == ["SECRET 42/ü"]
    assert str(response.request.url) == httpserver.url_for("/data?lat=1.5")
    assert "SECRET" not in response.text
    assert response.text.count("…") == 4
    assert dict(response.headers) == {"content-length": str(len(response.content))}


def test_the_client_names_itself(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    httpserver.expect_request("/data", headers={"User-Agent": "datastream-flights/0.1"}).respond_with_json({})
    assert get(settings).status_code == 200


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_temporary_status_is_tried_again(
    httpserver: HTTPServer, settings: FlightsSettings, fake_quota: FakeQuota, waits: list[float], status: int
) -> None:
    answer(httpserver, Response(status=status), Response(status=status), Response("{}"))
    assert get(settings).status_code == 200
    assert fake_quota.charges == 3
    assert len(waits) == 2
    assert 0 <= waits[0] <= 2
    assert 0 <= waits[1] <= 4


def test_a_temporary_error_in_the_body_is_tried_again(
    httpserver: HTTPServer, settings: FlightsSettings, fake_quota: FakeQuota
) -> None:
    answer(httpserver, Response("busy"), Response("{}"))
    assert get(settings, is_temporary=lambda response: response.text == "busy").text == "{}"
    assert fake_quota.charges == 2


def test_the_client_gives_up(httpserver: HTTPServer, settings: FlightsSettings, fake_quota: FakeQuota) -> None:
    httpserver.expect_request("/data").respond_with_data("busy")
    with pytest.raises(ServiceUnavailableError, match=rf"test at .*/data answers 200 after {TRIES} tries: busy"):
        get(settings, is_temporary=lambda response: response.text == "busy")
    assert fake_quota.charges == TRIES == len(httpserver.log)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_other_statuses_are_not_tried_again(httpserver: HTTPServer, settings: FlightsSettings, status: int) -> None:
    httpserver.expect_request("/data").respond_with_data("no", status=status, headers={"Location": "/elsewhere"})
    assert get(settings).status_code == status
    assert len(httpserver.log) == 1


def test_retry_after_is_obeyed_up_to_a_minute(
    httpserver: HTTPServer, settings: FlightsSettings, waits: list[float]
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    values = ("7", date, "3600")
    answer(httpserver, *(Response(status=429, headers={"Retry-After": value}) for value in values), Response("{}"))
    assert get(settings).status_code == 200
    assert waits[0] == 7
    assert 20 < waits[1] <= 30
    assert waits[2] == 60


def test_a_lost_connection_is_tried_again_and_charged(settings: FlightsSettings, fake_quota: FakeQuota) -> None:
    truncated = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":'
    with (
        raw_server(truncated) as url,
        pytest.raises(ServiceUnavailableError, match=r"does not answer: .*without sending complete message body"),
    ):
        get(settings, url)
    assert (fake_quota.charges, fake_quota.refunds) == (TRIES, 0)


def test_a_server_that_never_answers_is_charged(settings: FlightsSettings, fake_quota: FakeQuota) -> None:
    with raw_server(None) as url, pytest.raises(ServiceUnavailableError, match=r"does not answer: .*timed out"):
        get(settings, url)
    assert (fake_quota.charges, fake_quota.refunds) == (TRIES, 0)


def test_a_request_without_a_connection_is_refunded(settings: FlightsSettings, fake_quota: FakeQuota) -> None:
    with pytest.raises(ServiceUnavailableError, match=r"test at http://127.0.0.1:1 does not answer: .*refused"):
        get(settings, "http://127.0.0.1:1")
    assert (fake_quota.charges, fake_quota.refunds) == (TRIES, TRIES)


def test_a_certificate_is_checked(settings: FlightsSettings, fake_quota: FakeQuota, tmp_path: Path) -> None:
    context: ssl.SSLContext = make_self_signed(tmp_path)
    with HTTPServer(host="127.0.0.1", ssl_context=context) as server:
        with pytest.raises(ServiceUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            get(settings, server.url_for("").rstrip("/"))
        assert server.log == []
    assert fake_quota.charges == fake_quota.refunds


@pytest.mark.parametrize(
    ("proxy", "url", "expected"),
    [
        ("http://proxy.example:3128", "https://api.example", "http://proxy.example:3128"),
        ("proxy.example:3128", "https://api.example", "http://proxy.example:3128"),
        ("http://proxy.example:3128", "http://apis:8091", None),
        ("http://proxy.example:3128", "https://127.0.0.1", None),
        ("", "https://api.example", None),
    ],
)
def test_only_the_internet_is_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: str, url: str, expected: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    assert http._find_proxy(httpx.URL(url)) == expected


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"<html>", 200, "invalid_json"),
        (b"<html>", 403, "http_error"),
        (b"", 200, "invalid_json"),
        (b'{"a": 1', 200, "invalid_json"),
        (b'{"a": "\xff"}', 200, "invalid_json"),
        (b"[" * 100_000, 200, "invalid_json"),
        (b"[1]", 200, "not_an_object"),
        (b"null", 200, "not_an_object"),
    ],
)
def test_a_body_that_is_no_object_is_rejected(body: bytes, status: int, reason: str) -> None:
    with pytest.raises(RejectedError) as caught:
        parse_body(httpx.Response(status, content=body))
    assert caught.value.reason == reason


def test_members_of_nested_objects() -> None:
    body = {"a": {"b": {"c": 0}, "d": None}, "e": []}
    assert read_path(body, "a", "b", "c") == 0
    assert read_path(body, "a", "d", "x") is None
    assert read_path(body, "z", "y") is None
    with pytest.raises(RejectedError, match="e is a list, not an object"):
        read_path(body, "e", "x")
