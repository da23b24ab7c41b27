"""The producer of the stream against a server that fails in each documented way."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner
from werkzeug import Request, Response

import generate_weather
import put_weather
from flight_lines import Options
from flight_weather import AIRPORTS, read_airports
from jobs.serverless.vertical import STREAM, ServerlessSettings
from kinesis_records import FAULTS, LATE, OBSERVATION, REPEAT, Mixer, Record, make_record
from kinesis_sender import BATCH_BYTES, BATCH_RECORDS, RECORD_BYTES, PutError, Sender, cut_batches
from put_weather import Run, app, describe_totals
from weather_observation import Weather, make_weather
from weather_observation import read_airports as read_producer_airports
from weather_sources import Source

PRODUCER_AIRPORTS = read_producer_airports()
SLOW = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"}
BROKEN = {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."}
GOOD = {"ShardId": "shardId-000000000000", "SequenceNumber": "1"}


def generate(count: int) -> list[Weather]:
    options = Options(count, 0, 1, 0, 0, datetime.now(UTC) - timedelta(days=1), timedelta(seconds=40))
    contents = islice(generate_weather.draw_weather(read_airports(AIRPORTS), options), count)
    return [make_weather(content, PRODUCER_AIRPORTS, "generator", "line 1") for content in contents]


def make_records(count: int) -> list[Record]:
    return [make_record(weather, PRODUCER_AIRPORTS) for weather in generate(count)]


class Kinesis:
    """A stand-in for PutRecords. `stored` has what it acknowledged.

    Attributes:
        answers: what it answers to the next requests: a result for each record by its place, or an error. After them,
            everything is good.
    """

    def __init__(self, server: HTTPServer) -> None:
        self.stored: list[bytes] = []
        self.asked: list[int] = []
        self.keys: set[str] = set()
        self.answers: list[Callable[[int], dict[str, str]] | tuple[int, str]] = []
        self.url = server.url_for("")
        server.expect_request("/").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        assert request.headers["X-Amz-Target"] == "Kinesis_20131202.PutRecords"
        body = json.loads(request.data)
        assert body["StreamName"] == STREAM
        self.asked.append(len(body["Records"]))
        answer = self.answers.pop(0) if self.answers else lambda _: GOOD
        if isinstance(answer, tuple):
            status, code = answer
            return Response(json.dumps({"__type": code, "message": "No."}), status)
        results = [answer(place) for place in range(len(body["Records"]))]
        for record, result in zip(body["Records"], results, strict=True):
            if result is GOOD:
                self.stored.append(base64.b64decode(record["Data"]))
                self.keys.add(record["PartitionKey"])
        failed = sum(result is not GOOD for result in results)
        return Response(json.dumps({"FailedRecordCount": failed, "Records": results}))


@pytest.fixture
def kinesis(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kinesis]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    yield Kinesis(httpserver)
    httpserver.check_assertions()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the sender would wait between tries."""
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=seconds.append))
    return seconds


def make_sender(kinesis: Kinesis, timeout_s: float = 30) -> Sender:
    return Sender(STREAM, kinesis.url, "us-east-1", timeout_s)


# --- Sending ----------------------------------------------------------------------------------------------------------


def test_only_the_records_that_failed_are_sent_again(kinesis: Kinesis, waits: list[float]) -> None:
    kinesis.answers = [
        lambda place: SLOW if place % 2 else GOOD,
        lambda place: BROKEN if place == 0 else GOOD,
    ]
    records = make_records(10)
    sender = make_sender(kinesis)
    sender.put(records)
    assert kinesis.asked == [10, 5, 1]
    assert Counter(kinesis.stored) == Counter(record.value for record in records)
    assert kinesis.keys == {record.key for record in records}
    assert (sender.count, sender.waiting) == (10, 0)
    assert len(waits) == 2


@pytest.mark.parametrize(
    "error",
    [
        (400, "ProvisionedThroughputExceededException"),
        (400, "LimitExceededException"),
        (400, "ThrottlingException"),
        (400, "KMSThrottlingException"),
        (500, "InternalFailure"),
        (503, "ServiceUnavailable"),
    ],
)
def test_a_request_that_fails_for_a_while_is_sent_again(kinesis: Kinesis, error: tuple[int, str]) -> None:
    kinesis.answers = [error, error]
    sender = make_sender(kinesis)
    sender.put(make_records(3))
    assert kinesis.asked == [3, 3, 3]
    assert sender.count == len(kinesis.stored) == 3


def test_records_that_fail_until_the_deadline_are_counted_in_the_error(kinesis: Kinesis) -> None:
    kinesis.answers = [lambda place: GOOD if place == 0 else SLOW] + [lambda _: SLOW] * 10_000
    sender = make_sender(kinesis, timeout_s=0.3)
    records = make_records(BATCH_RECORDS + 10)
    with pytest.raises(PutError) as caught:
        sender.put(records)
    text = str(caught.value)
    assert text.startswith(f"509 records were not put into {STREAM} at {kinesis.url} within 0.3 s: Provisioned")
    assert "ProvisionedThroughputExceededException 499. Send less (--rate)" in text
    assert (sender.count, sender.waiting) == (1, 509)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ResourceNotFoundException", "Create the stream: make local-up VERTICAL=serverless"),
        ("AccessDeniedException", "Check the login"),
        ("UnrecognizedClientException", "Check the login"),
        ("ExpiredTokenException", "Check the login"),
    ],
)
def test_a_request_that_is_refused_is_not_repeated(kinesis: Kinesis, code: str, text: str) -> None:
    kinesis.answers = [(400, code)]
    with pytest.raises(PutError, match=text) as caught:
        make_sender(kinesis).put(make_records(3))
    assert str(caught.value).startswith("3 records were not put")
    assert kinesis.asked == [3]


def test_an_emulator_that_is_away_is_named() -> None:
    sender = Sender(STREAM, "http://127.0.0.1:1", "us-east-1", 0.2)
    with pytest.raises(PutError, match=r"3 records were not put into weather_stream at http://127\.0\.0\.1:1 within"):
        sender.put(make_records(3))
    with pytest.raises(PutError, match="make local-up VERTICAL=serverless"):
        sender.put(make_records(3))


def test_batches_keep_the_limits_and_the_order() -> None:
    small = [Record("Dakar", b"x" * 10)] * (BATCH_RECORDS + 1)
    large = [Record("Dakar", bytes([number]) * (RECORD_BYTES - 5)) for number in range(12)]
    batches = list(cut_batches([*small, *large]))
    assert [record for batch in batches for record in batch] == [*small, *large]
    assert max(map(len, batches)) == BATCH_RECORDS
    assert [len(batch) for batch in batches] == [500, 5, 5, 3]
    assert max(sum(record.size for record in batch) for batch in batches) <= BATCH_BYTES
    assert list(cut_batches([])) == []


def test_a_record_over_the_limit_is_dropped_and_counted(kinesis: Kinesis, caplog: pytest.LogCaptureFixture) -> None:
    good = Record("São Paulo", b"x" * (RECORD_BYTES - len("São Paulo".encode())))
    sender = make_sender(kinesis)
    sender.put([good, Record("São Paulo", good.value + b"x"), good])
    assert (sender.count, sender.too_large) == (2, 1)
    assert kinesis.stored == [good.value] * 2
    assert "dropped a record of São Paulo: 1048577 bytes" in caplog.text
    assert "dropped 1 too large" in describe_totals(sender, Source({}, threading.Event()))


def test_an_emulator_does_not_get_the_login_of_aws(
    httpserver: HTTPServer, kinesis: Kinesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real-token")
    make_sender(kinesis).put(make_records(1))
    headers = str(httpserver.log[0][0].headers)
    assert "Credential=test/" in headers
    assert "AKIAREAL" not in headers
    assert "real-token" not in headers


def test_an_emulator_is_not_behind_a_proxy(kinesis: Kinesis, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    make_sender(kinesis).put(make_records(1))
    assert len(kinesis.stored) == 1


def test_aws_is_asked_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    sender = Sender(STREAM, None, "eu-west-3", 1)
    assert sender._client.meta.endpoint_url == "https://kinesis.eu-west-3.amazonaws.com"


# --- Mixing -----------------------------------------------------------------------------------------------------------


def test_the_shares_of_faulty_repeated_and_late_records() -> None:
    mixer = Mixer(seed=1, faulty=0.1, duplicates=0.2)
    records = make_records(2000)
    mixed = [one for record in records for one in mixer.mix(record)] + mixer.release()
    kinds = Counter(record.kind for record in mixed)
    assert kinds[OBSERVATION] + kinds[LATE] == len(records)
    assert kinds[REPEAT] / len(mixed) == pytest.approx(0.1, abs=0.02)
    assert kinds[LATE] / len(mixed) == pytest.approx(0.1, abs=0.02)
    faulty = {label: kinds[label] for label in FAULTS}
    assert sum(faulty.values()) / len(mixed) == pytest.approx(0.1, abs=0.02)
    assert max(faulty.values()) - min(faulty.values()) <= 2
    good = [record for record in mixed if record.kind in (OBSERVATION, LATE)]
    assert Counter(record.value for record in good) == Counter(record.value for record in records)


def test_late_records_come_after_a_newer_one_of_their_city() -> None:
    mixer = Mixer(seed=1, faulty=0, duplicates=0.4)
    mixed = [one for record in make_records(500) for one in mixer.mix(record)]
    newest: dict[str, float] = {}
    late = 0
    for record in mixed:
        timestamp = json.loads(record.value)["timestamp"]
        if record.kind == LATE:
            late += 1
            assert timestamp < newest[record.key]
        newest[record.key] = max(timestamp, newest.get(record.key, 0))
    assert late > 50


def test_without_options_nothing_is_added() -> None:
    records = make_records(100)
    mixer = Mixer(seed=1, faulty=0, duplicates=0)
    assert [one for record in records for one in mixer.mix(record)] == records


# --- The run and the command ------------------------------------------------------------------------------------------


def run_all(kinesis: Kinesis, observations: list[Weather], **options: Any) -> Sender:
    sender = make_sender(kinesis)
    stopped = options.pop("stopped", threading.Event())
    mixer = Mixer(1, options.pop("faulty", 0), options.pop("duplicates", 0))
    run = Run(sender, mixer, PRODUCER_AIRPORTS, rate=options.pop("rate", 0), stopped=stopped, **options)
    run.put_all(observations[start : start + 7] for start in range(0, len(observations), 7))
    return sender


@pytest.mark.parametrize("count", [1, 2, 99, 100])
def test_exactly_the_count_is_put(kinesis: Kinesis, count: int) -> None:
    sender = run_all(kinesis, generate(200), count=count, faulty=0.3, duplicates=0.5)
    assert sender.count == len(kinesis.stored) == count


def test_what_is_held_back_is_put_at_the_end(kinesis: Kinesis) -> None:
    observations = generate(50)
    run_all(kinesis, observations, count=None, duplicates=0.9)
    stored = {json.loads(value)["data"]["event_id"] for value in kinesis.stored}
    assert stored == {weather.event_id for weather in observations}


def test_after_a_stop_request_what_is_read_is_put_at_once(kinesis: Kinesis) -> None:
    stopped = threading.Event()
    stopped.set()
    # One record a day, if it were not stopped.
    sender = run_all(kinesis, generate(7), count=None, rate=1 / 86_400, stopped=stopped)
    assert sender.count == 7


def test_records_that_were_read_and_not_tried_are_counted(kinesis: Kinesis) -> None:
    kinesis.answers = [lambda _: GOOD, (400, "AccessDeniedException")]
    with pytest.raises(PutError, match=r"^2 records were not put .* 3 more were read and not tried\.$"):
        run_all(kinesis, generate(7), count=None, rate=2)
    assert len(kinesis.stored) == 2


def test_the_endpoint_follows_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_EMULATOR",
        "AWS_ENDPOINT_URL",
        *(f"SERVERLESS_{part}" for part in ("EMULATOR", "ENDPOINT_URL", "PORT")),
    ):
        monkeypatch.delenv(name, raising=False)
    for variables in (
        {},
        {"SERVERLESS_PORT": "4577"},
        {"AWS_ENDPOINT_URL": "http://aws:4566"},
        {"SERVERLESS_ENDPOINT_URL": "http://aws:4566", "SERVERLESS_PORT": "4577"},
        {"AWS_EMULATOR": "localstack"},
        {"AWS_EMULATOR": "none", "AWS_ENDPOINT_URL": "http://aws:4566"},
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            expected = ServerlessSettings(_env_file=None).serverless_endpoint
            assert put_weather.default_endpoint() == (expected or "")
    assert put_weather.STREAM == STREAM


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--faulty", "0.5", "--duplicates", "0.5"], "more than 0.9"),
        (["--history", "24"], "needs --count"),
        (["--history", "24", "--count", "5", "--from", "-"], "needs --count and --from generator"),
        (["--count", "0"], "--count"),
        (["--from", "radio"], "--from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.output.split())
