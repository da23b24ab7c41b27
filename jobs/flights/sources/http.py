"""The HTTP client of all collectors: retries, quotas, and a key that nobody sees.

A request passes three transports. The first retries. The second charges each try to the quota. The last adds the key
to the URL just before the request is sent, and removes it from the answer. So logs, errors and rejects cannot have it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec
from httpx_retries import Retry, RetryTransport

from jobs.errors import ServiceUnavailableError
from jobs.flights import quota
from jobs.flights.contract import MAX_TEXT, Reason
from jobs.flights.quota import Plan
from jobs.flights.vertical import FlightsSettings
from jobs.strict_json import RejectedError

TIMEOUT = httpx.Timeout(20, connect=5)  # seconds
TRIES = 4
BACKOFF_S = 1.0
MAX_RETRY_AFTER_S = 60.0
TOO_MANY_REQUESTS = 429
STATUSES_TO_RETRY = (TOO_MANY_REQUESTS, *range(500, 600))
HEADERS = {"User-Agent": "datastream-flights/0.1", "Accept": "application/json"}
# The only header of an answer that a caller sees.
RETRY_AFTER = b"retry-after"
# The stand-in takes any key.
STAND_IN_KEY = "stand-in-key"


class _WithoutDebug(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG


# httpcore's debug lines show the headers of an answer and bytes that it cannot read. Both may repeat the key.
logging.getLogger("httpcore.http11").addFilter(_WithoutDebug())


@dataclass(frozen=True)
class Api:
    """An API.

    Attributes:
        source: as in `Origin.source`.
        url: scheme and host.
        key_name: the query parameter of the key.
        find_used_up: the plan that an answer says is used up.
        is_temporary: whether an answer has an error that may go away, whatever its status.
    """

    source: str
    url: str
    key_name: str
    key: str = field(repr=False)
    plans: tuple[Plan, ...]
    find_used_up: Callable[[httpx.Response], Plan | None]
    is_temporary: Callable[[httpx.Response], bool]


class _TemporaryError(Exception):
    """An answer has an error that may go away."""


class _KeyTransport(httpx.BaseTransport):
    """Adds the key to requests and removes it from answers and errors."""

    def __init__(self, transport: httpx.BaseTransport, name: str, key: str) -> None:
        self._transport = transport
        self._name = name
        self._key = key
        # Each byte as it is, percent-encoded, or as JSON's escape; a space also as in forms.
        self._pattern = re.compile(
            b"".join(
                b"(?:%s|(?i:%%%02x|\\\\u00%02x)%s)"
                % (re.escape(bytes([byte])), byte, byte, rb"|\+" if byte == ord(" ") else b"")
                for byte in key.encode()
            )
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fault: httpx.RequestError
        try:
            return self._redact_response(self._transport.handle_request(self._sign(request)))
        except httpx.RequestError as error:
            fault = type(error)(self._redact(str(error).encode()).decode(errors="replace"))
        # Outside of the except block: the original error would be this one's context.
        raise fault

    def _sign(self, request: httpx.Request) -> httpx.Request:
        return httpx.Request(
            request.method,
            request.url.copy_merge_params({self._name: self._key}),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )

    def _redact_response(self, response: httpx.Response) -> httpx.Response:
        try:
            body = response.read()
        finally:
            response.close()
        headers = [(name, self._redact(value)) for name, value in response.headers.raw if name.lower() == RETRY_AFTER]
        return httpx.Response(response.status_code, headers=headers, content=self._redact(body))

    def _redact(self, text: bytes) -> bytes:
        return self._pattern.sub("…".encode(), text)

    def close(self) -> None:
        self._transport.close()


class _QuotaTransport(httpx.BaseTransport):
    """Charges each request that is sent, and records that an API says its plan is used up."""

    def __init__(self, transport: httpx.BaseTransport, settings: FlightsSettings, api: Api) -> None:
        self._transport = transport
        self._settings = settings
        self._api = api

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        charged = quota.charge(self._settings, self._api.plans)
        try:
            response = self._transport.handle_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            quota.refund(self._settings, charged)
            raise
        if plan := self._api.find_used_up(response):
            resets_at = quota.mark_used_up(self._settings, plan)
            if plan.period != "minute":
                raise quota.make_error(plan, resets_at)
            # The next try waits for the next minute.
        return response

    def close(self) -> None:
        self._transport.close()


class ApiClient:
    """A client of one API. Use it in a `with` statement."""

    def __init__(self, settings: FlightsSettings, api: Api) -> None:
        self._api = api
        sending = httpx.HTTPTransport(proxy=_find_proxy(httpx.URL(api.url)))
        charging = _QuotaTransport(_KeyTransport(sending, api.key_name, api.key), settings, api)
        retry = Retry(
            total=TRIES - 1,
            allowed_methods=["GET"],
            status_forcelist=STATUSES_TO_RETRY,
            retry_on_exceptions=(*Retry.RETRYABLE_EXCEPTIONS, _TemporaryError),
            backoff_factor=BACKOFF_S,
            max_backoff_wait=MAX_RETRY_AFTER_S,
            validate_response=self._check_temporary,
        )
        self._client = httpx.Client(
            base_url=api.url,
            headers=HEADERS,
            timeout=TIMEOUT,
            transport=RetryTransport(charging, retry),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, parameters: Mapping[str, str | int | float]) -> httpx.Response:
        """Send a GET request. The answer's status is below 500 and not 429. Neither answer nor errors have the key.

        Raises:
            ServiceUnavailableError: the host does not answer, or answers with an error that may go away.
            QuotaUsedUpError: the plan has no request left.
        """
        try:
            response = self._client.get(path, params=dict(parameters))
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnavailableError(
                f"{self._api.source} at {self._api.url} does not answer: {reason}. Check the network, then try again."
            ) from error
        if response.status_code in STATUSES_TO_RETRY or self._api.is_temporary(response):
            raise ServiceUnavailableError(
                f"{self._api.source} at {self._api.url}{path} answers {response.status_code} after {TRIES} tries: "
                f"{response.text[:MAX_TEXT]}. Try again later."
            )
        return response

    def _check_temporary(self, response: httpx.Response) -> None:
        if self._api.is_temporary(response):
            raise _TemporaryError


def _find_proxy(url: httpx.URL) -> str | None:
    """The proxy of this machine's environment. The stand-in, which has no https, is never behind one."""
    if url.scheme != "https" or proxy_bypass(url.host):
        return None
    proxy = getproxies().get(url.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def parse_body(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in the body of an answer.

    Raises:
        RejectedError: not JSON, for example HTML, or not an object.
    """
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if response.status_code != httpx.codes.OK:
            raise RejectedError(Reason.HTTP_ERROR, f"status {response.status_code}, and no JSON") from error
        raise RejectedError(Reason.INVALID_JSON, str(error)) from error
    if not isinstance(body, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, f"the body is a {type(body).__name__}, not an object")
    return body


def read_path(body: dict[str, Any], *path: str) -> Any:
    """A member of nested objects; None if it, or an object around it, is absent or null.

    Raises:
        RejectedError: what is around it is not an object.
    """
    value: Any = body
    for depth, name in enumerate(path):
        if not isinstance(value, dict):
            text = f"{'.'.join(path[:depth])} is a {type(value).__name__}, not an object"
            raise RejectedError(Reason.WRONG_TYPE, text)
        value = value.get(name)
        if value is None:
            return None
    return value
