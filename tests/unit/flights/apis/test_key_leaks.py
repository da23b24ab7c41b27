"""Whatever fails, and whatever the server repeats: the key is in no log, error or reject."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.errors import DatastreamError
from jobs.flights.contract import Collected, Reject
from jobs.flights.sources import aviationstack, openweather
from jobs.flights.vertical import FlightsSettings
from tests.testkit.apis import air_body, make_self_signed, page_body, raw_server, weather_body

KEY = "SECRET-42"
SPELLINGS = (KEY, "SECRET%2D42", "SECRET%2d42", "\\u0053ECRET-42")
ECHO = " ".join(SPELLINGS)
PATHS = (openweather.WEATHER, openweather.AIR, aviationstack.FLIGHTS)

Collect = Callable[[FlightsSettings], Iterator[Collected]]


def collect_flights(settings: FlightsSettings) -> Iterator[Collected]:
    return aviationstack.collect(settings, datetime.now(UTC))


COLLECTORS = pytest.mark.parametrize(
    "collect", [openweather.collect, collect_flights], ids=["openweather", "aviationstack"]
)


@pytest.fixture
def records() -> Iterator[list[str]]:
    """All log records from here on, with their arguments and tracebacks, except those of the test's server."""
    texts: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "werkzeug":
                texts.append(f"{self.format(record)} {record.args!r}")

    keeper = Keeper()
    loggers = [logging.getLogger(name) for name in ("", "httpx", "httpx_retries", "httpcore", "httpcore.http11")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(keeper)
    yield texts
    loggers[0].removeHandler(keeper)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def run(collect: Collect, url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect from a URL with the key. Returns all that a caller sees: items, and an error with its tracebacks."""
    settings = FlightsSettings(
        _env_file=None, flights_openweather_key=KEY, flights_aviationstack_key=KEY, flights_places="BOS"
    )
    for module in (openweather, aviationstack):
        monkeypatch.setattr(module, "URL", url.rstrip("/"))
    seen = [repr(settings)]
    try:
        for item in collect(settings):
            seen += [repr(item), *([item.value.decode(errors="replace")] if isinstance(item, Reject) else [])]
    except DatastreamError as error:
        seen += list(describe(error))
    return seen


def describe(error: BaseException) -> Iterator[str]:
    """The texts of an error and of all errors before it, with the local variables of their frames."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        if (one := todo.pop()) is None or one in seen:
            continue
        seen.append(one)
        yield f"{one} {one!r} {one.args!r} {vars(one)!r}"
        yield "".join(traceback.TracebackException.from_exception(one, capture_locals=True).format())
        todo += [one.__cause__, one.__context__]


def assert_no_key(texts: list[str]) -> None:
    assert texts
    for text in texts:
        for spelling in SPELLINGS:
            # This test's own frame has the key.
            hits = [line for line in text.splitlines() if spelling.lower() in line.lower()]
            assert not hits, hits


def echo(status: int, body: str = ECHO, headers: dict[str, str] | None = None) -> Callable[[Request], Response]:
    """Answer only a request that has the key: so the test is sure that it was sent."""

    def respond(request: Request) -> Response:
        assert KEY in (request.args.get("appid"), request.args.get("access_key"))
        return Response(body, status, headers={"X-Echo": request.url, **(headers or {})})

    return respond


@COLLECTORS
@pytest.mark.parametrize(
    "answered",
    [
        (401, json.dumps({"cod": 401, "message": ECHO, "error": {"code": "invalid_access_key", "message": ECHO}})),
        (401, ECHO),
        (404, json.dumps({"cod": "404", "message": ECHO, "error": {"code": ECHO, "message": ECHO}})),
        (429, ECHO),
        (429, json.dumps({"cod": 429, "message": ECHO, "error": {"code": "usage_limit_reached", "message": ECHO}})),
        (500, ECHO),
        (200, json.dumps({"cod": "503", "error": {"code": "internal_error", "message": ECHO}})),
        (200, json.dumps({"cod": ECHO, "error": ECHO})),
        (200, json.dumps({"success": False, "error": {"code": 101, "type": "x", "info": ECHO}, "cod": 401})),
        (200, f"<html>{ECHO}</html>"),
        (200, json.dumps({**weather_body(name=ECHO, wind=ECHO), **page_body([ECHO, {"airline": ECHO}])})),
        (200, json.dumps({**weather_body(weather=[{"main": ECHO}]), **air_body(dt=ECHO), "data": ECHO})),
        (301, ECHO),
    ],
)
def test_answers(
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    records: list[str],
    collect: Collect,
    answered: tuple[int, str],
) -> None:
    status, body = answered
    headers = {"Location": f"http://127.0.0.1:1/?key={KEY}", "Retry-After": KEY, "Content-Type": f"text/plain; x={KEY}"}
    for path in PATHS:
        httpserver.expect_request(path).respond_with_handler(echo(status, body, headers))
    seen = run(collect, httpserver.url_for(""), monkeypatch)
    httpserver.check_assertions()
    assert len(seen) > 1
    assert_no_key(seen)
    assert_no_key(records)
    assert any("HTTP Request: GET" in text for text in records) or status in (429, 500)


@COLLECTORS
@pytest.mark.parametrize(
    "raw",
    [
        None,
        f"{ECHO}\r\n\r\n".encode(),
        f"HTTP/1.1 200 {KEY}\r\n{KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 302 {KEY}\r\nLocation: /{KEY}\r\nContent-Length: 0\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{ECHO}".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n{KEY}".encode(),
    ],
    ids=["timeout", "no HTTP", "bad header", "redirect", "truncated", "bad chunk", "bad gzip"],
)
def test_broken_connections(
    monkeypatch: pytest.MonkeyPatch, records: list[str], collect: Collect, raw: bytes | None
) -> None:
    with raw_server(raw) as url:
        seen = run(collect, url, monkeypatch)
    assert len(seen) > 1
    assert_no_key(seen)
    assert_no_key(records)


@COLLECTORS
def test_a_bad_certificate(
    monkeypatch: pytest.MonkeyPatch, records: list[str], collect: Collect, tmp_path: Path
) -> None:
    with HTTPServer(host="127.0.0.1", ssl_context=make_self_signed(tmp_path)) as server:
        seen = run(collect, server.url_for(""), monkeypatch)
    assert "CERTIFICATE_VERIFY_FAILED" in " ".join(seen)
    assert_no_key(seen)
    assert_no_key(records)


@COLLECTORS
def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, records: list[str], collect: Collect) -> None:
    seen = run(collect, "http://127.0.0.1:1", monkeypatch)
    assert "does not answer" in " ".join(seen)
    assert_no_key(seen)
    assert_no_key(records)
