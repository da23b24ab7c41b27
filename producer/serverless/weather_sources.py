"""Where observations are from: OpenWeather or its stand-in, the generator of the flights, or JSON lines."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec
from httpx_retries import Retry, RetryTransport

from weather_observation import Airport, RejectedError, Weather, format_time, make_weather

log = logging.getLogger("put_weather")

GENERATOR = Path(__file__).resolve().parents[1] / "flights" / "generate_weather.py"
# What the generator needs of this process's environment. It gets no key.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT", "TZ", "VIRTUAL_ENV")

MAX_LINE = 2**18  # bytes
READ_BYTES = 2**16
MANY = 500  # lines that are read before they are put
LONGEST_PAUSE_S = 0.2  # so that a stop request takes effect soon

OPENWEATHER_URL = "https://api.openweathermap.org"
WEATHER, AIR = "/data/2.5/weather", "/data/2.5/air_pollution"
ROUND_S = 600  # OpenWeather's data change every ten minutes
# A round of all places of airports.csv makes 48 requests, and OpenWeather's free plan allows 60 a minute.
TIMEOUT = httpx.Timeout(20, connect=5)
TRIES = 4
TOO_MANY_REQUESTS = 429
STATUSES_TO_RETRY = (TOO_MANY_REQUESTS, *range(500, 600))
RETRY_AFTER = b"retry-after"
STAND_IN_KEY = "stand-in-key"  # it takes any
MAX_TEXT = 200


# What a source gives: the observations that are there, then the next ones.
Batches = Generator[list[Weather], None, None]


class SourceError(Exception):
    """A source gives nothing. The text says what to do."""


class Source:
    """A source of observations. What cannot be used is logged and counted in `rejected`."""

    def __init__(self, airports: Mapping[str, Airport], stopped: threading.Event) -> None:
        self.rejected = 0
        self.airports, self.stopped = airports, stopped

    def reject(self, position: str, error: RejectedError) -> None:
        self.rejected += 1
        log.warning("%s is no observation: %s", position, str(error)[:MAX_TEXT])


class Lines(Source):
    """Observations as JSON lines."""

    def read(self, descriptor: int, source: str) -> Batches:
        """The observations of a file descriptor as they arrive, until its end or a stop request."""
        number = 0
        for lines in self._read_lines(descriptor):
            observations = []
            for line in lines:
                number += 1
                try:
                    content = parse_line(line)
                    observations.append(make_weather(content, self.airports, source, f"line {number}"))
                except RejectedError as error:
                    self.reject(f"line {number}", error)
            yield observations

    def _read_lines(self, descriptor: int) -> Iterator[list[bytes]]:
        """The lines that are there, at most about MANY. Only the start of a line that is too long."""
        rest = b""
        lines: list[bytes] = []
        is_cut = False  # whether `rest` belongs to a line that is too long and was yielded
        while not self.stopped.is_set():
            is_ready = select.select([descriptor], [], [], 0 if lines else LONGEST_PAUSE_S)[0]
            if lines and (not is_ready or len(lines) >= MANY):
                yield lines
                lines = []
            if not is_ready:
                continue
            chunk = os.read(descriptor, READ_BYTES)
            *whole, rest = (rest + chunk).split(b"\n")
            if is_cut and whole:
                whole, is_cut = whole[1:], False
            lines += whole
            if is_cut:
                rest = b""
            elif len(rest) > MAX_LINE:
                lines.append(rest)
                rest, is_cut = b"", True
            if not chunk:
                lines += [rest] if rest else []
                break
        if lines:
            yield lines


def parse_line(line: bytes) -> dict[str, Any]:
    """The object in a line.

    Raises:
        RejectedError: not one JSON object in UTF-8, or a key occurs twice.
    """
    line = line.removesuffix(b"\r")
    if len(line) > MAX_LINE:
        raise RejectedError(f"the line has more than {MAX_LINE:,} bytes")
    try:
        content = json.loads(line.decode(), object_pairs_hook=_read_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RejectedError(str(error)) from error
    if not isinstance(content, dict):
        raise RejectedError(f"it is a {type(content).__name__}, not an object")
    return content


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise RejectedError("a key occurs more than once")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class WeatherGenerator(Lines):
    """The weather that producer/flights/generate_weather.py makes up."""

    def generate(self, arguments: Sequence[str]) -> Batches:
        """
        Raises:
            SourceError: the generator ended with an error.
        """
        process = subprocess.Popen(
            [sys.executable, GENERATOR, *arguments],
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name in _INHERITED},
            process_group=0,  # Ctrl-C is for this process, which stops the generator
        )
        with process:
            assert process.stdout is not None  # noqa: S101
            try:
                yield from self.read(process.stdout.fileno(), "generator")
                if not self.stopped.is_set() and (code := process.wait()):
                    raise SourceError(f"{GENERATOR.name} ended with exit code {code}; see its message above.")
            finally:
                process.terminate()


class _TemporaryError(Exception):
    """An answer has an error that may go away."""


class _WithoutDebug(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG


# httpcore's debug lines show the headers of an answer, which may repeat the key.
logging.getLogger("httpcore.http11").addFilter(_WithoutDebug())


class _KeyTransport(httpx.BaseTransport):
    """Adds the key just before a request is sent, and removes it from answers and errors.

    So the key is in no log, error or observation.
    """

    def __init__(self, transport: httpx.BaseTransport, key: str) -> None:
        self._transport, self._key = transport, key
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
        url = request.url.copy_merge_params({"appid": self._key})
        return httpx.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
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


class OpenWeather(Source):
    """The weather and the air quality from OpenWeather, or without a key from its stand-in.

    Formats: https://openweathermap.org/current and https://openweathermap.org/api/air-pollution.
    """

    def __init__(
        self, airports: Mapping[str, Airport], stopped: threading.Event, places: str, key: str, stand_in_url: str
    ) -> None:
        """
        Raises:
            SourceError: an unknown place.
        """
        super().__init__(airports, stopped)
        codes = [code.strip() for code in places.split(",") if code.strip()]
        if unknown := [code for code in codes if code not in airports]:
            raise SourceError(
                f"FLIGHTS_PLACES has {', '.join(unknown)}, which jobs/flights/airports.csv does not have. Use the "
                f"IATA codes {', '.join(sorted(airports))}."
            )
        if not codes:
            raise SourceError("FLIGHTS_PLACES has no place. Use IATA codes of jobs/flights/airports.csv.")
        self._places = [airports[code] for code in dict.fromkeys(codes)]
        self._name, self._url = ("openweather", OPENWEATHER_URL) if key else ("fake:openweather", stand_in_url)
        retry = Retry(
            total=TRIES - 1,
            allowed_methods=["GET"],
            status_forcelist=STATUSES_TO_RETRY,
            retry_on_exceptions=(*Retry.RETRYABLE_EXCEPTIONS, _TemporaryError),
            backoff_factor=1,
            max_backoff_wait=60,
            validate_response=_check_temporary,
        )
        transport = httpx.HTTPTransport(proxy=_find_proxy(httpx.URL(self._url)))
        self._client = httpx.Client(
            base_url=self._url,
            headers={"User-Agent": "datastream-put-weather/0.1", "Accept": "application/json"},
            timeout=TIMEOUT,
            transport=RetryTransport(_KeyTransport(transport, key or STAND_IN_KEY), retry),
            follow_redirects=False,
            trust_env=False,
        )

    def fetch(self) -> Batches:
        """Each place's observation, again every ten minutes, until a stop request.

        Raises:
            SourceError: OpenWeather rejects the key, does not answer, or answers with errors after all tries.
        """
        with self._client:
            while not self.stopped.is_set():
                started = time.monotonic()
                for airport in self._places:
                    if self.stopped.is_set():
                        return
                    yield self._fetch_place(airport)
                self.stopped.wait(started + ROUND_S - time.monotonic())

    def _fetch_place(self, airport: Airport) -> list[Weather]:
        answer = self._ask(WEATHER, airport, units="metric")
        position = str(answer.request.url)
        try:
            content = read_weather(read_body(answer, "main"), airport)
            weather = make_weather(content, self.airports, self._name, position)
        except RejectedError as error:
            self.reject(position, error)
            return []
        answer = self._ask(AIR, airport)
        try:
            content |= read_air(read_body(answer, "list"))
            return [make_weather(content, self.airports, self._name, position)]
        except RejectedError as error:
            self.reject(str(answer.request.url), error)
            return [weather]

    def _ask(self, path: str, airport: Airport, **more: str) -> httpx.Response:
        try:
            answer = self._client.get(path, params={"lat": airport.lat, "lon": airport.lon, **more})
        except httpx.RequestError as error:
            raise SourceError(
                f"{self._name} at {self._url} does not answer: {error or type(error).__name__}. Check the network, "
                "then try again."
            ) from error
        code = _read_code(answer)
        if code in STATUSES_TO_RETRY:
            raise SourceError(
                f"{self._name} at {self._url}{path} answers {code} after {TRIES} tries: {answer.text[:MAX_TEXT]}. Try "
                "again later."
            )
        if code == httpx.codes.UNAUTHORIZED:
            raise SourceError(
                f"OpenWeather rejects the key: {answer.text[:MAX_TEXT]}. A new key works after up to two hours. Set "
                "FLIGHTS_OPENWEATHER_KEY, or leave it empty for stand-in data."
            )
        return answer


def _check_temporary(answer: httpx.Response) -> None:
    if _read_code(answer) in STATUSES_TO_RETRY:
        raise _TemporaryError


def _find_proxy(url: httpx.URL) -> str | None:
    """The proxy of this machine's environment. The stand-in, which has no https, is never behind one."""
    if url.scheme != "https" or proxy_bypass(url.host):
        return None
    proxy = getproxies().get(url.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _parse_body(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError(f"status {answer.status_code}, and no JSON: {error}") from error
    if not isinstance(body, dict):
        raise RejectedError(f"the body is a {type(body).__name__}, not an object")
    return body


def _read_code(answer: httpx.Response) -> int:
    """The status of an answer: its body's `cod`, a number or a text, says it also when the HTTP status is 200."""
    if answer.status_code != httpx.codes.OK:
        return answer.status_code
    try:
        return int(_parse_body(answer).get("cod", httpx.codes.OK))
    except (RejectedError, TypeError, ValueError):
        return httpx.codes.OK  # `read_body` rejects it


def read_body(answer: httpx.Response, data: str) -> dict[str, Any]:
    """The body of an answer that has this member.

    Raises:
        RejectedError: the body has an error or no data.
    """
    body = _parse_body(answer)
    if answer.status_code != httpx.codes.OK or ("cod" in body and str(body["cod"]) != "200"):
        raise RejectedError(f"{answer.status_code}, cod {body.get('cod')}: {str(body.get('message'))[:MAX_TEXT]}")
    if not body.get(data):
        raise RejectedError(f"the body has no {data}")
    return body


def read_weather(body: dict[str, Any], airport: Airport) -> dict[str, Any]:
    """The content of an observation. Members that are absent, such as rain, are None, not 0."""
    conditions = body.get("weather") or [{}]
    if not isinstance(conditions, list) or not isinstance(conditions[0], dict):
        raise RejectedError("weather is not an array of objects")
    return {
        "observed_at": _read_time(body),
        "place_id": airport.iata,
        "lat": _read_path(body, "coord", "lat"),
        "lon": _read_path(body, "coord", "lon"),
        "units": "metric",
        "temperature": _read_path(body, "main", "temp"),
        "feels_like": _read_path(body, "main", "feels_like"),
        "pressure_hpa": _read_path(body, "main", "pressure"),
        "humidity_pct": _read_path(body, "main", "humidity"),
        "visibility_m": body.get("visibility"),
        "wind_speed": _read_path(body, "wind", "speed"),
        "wind_deg": _read_path(body, "wind", "deg"),
        "wind_gust": _read_path(body, "wind", "gust"),
        "clouds_pct": _read_path(body, "clouds", "all"),
        "rain_1h_mm": _read_path(body, "rain", "1h"),
        "snow_1h_mm": _read_path(body, "snow", "1h"),
        "condition": conditions[0].get("main"),
        "description": conditions[0].get("description"),
    }


def read_air(body: dict[str, Any]) -> dict[str, Any]:
    """The air quality in an observation's content."""
    entries = body["list"]
    if not isinstance(entries, list) or not isinstance(entries[0], dict):
        raise RejectedError("list is not an array of objects")
    air = {name: _read_path(entries[0], "components", name) for name in ("pm2_5", "pm10", "no2", "o3")}
    return {**air, "air_observed_at": _read_time(entries[0]), "aqi": _read_path(entries[0], "main", "aqi")}


def _read_path(body: dict[str, Any], first: str, second: str) -> Any:
    """A member of a member; None if either is absent or null."""
    members = body.get(first)
    if members is None:
        return None
    if not isinstance(members, dict):
        raise RejectedError(f"{first} is a {type(members).__name__}, not an object")
    return members.get(second)


def _read_time(members: dict[str, Any]) -> str | None:
    seconds = members.get("dt")
    if seconds is None:
        return None
    if type(seconds) is not int:
        raise RejectedError(f"dt is a {type(seconds).__name__}, not a whole number of seconds")
    try:
        return format_time(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise RejectedError(f"dt {seconds}: {error}") from error
