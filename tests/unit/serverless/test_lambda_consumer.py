"""The Lambda function, against DynamoDB in memory."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from jobs.serverless import lambda_consumer
from jobs.serverless.lambda_consumer import BatchFailedError, Reason, lambda_handler
from tests.testkit.dynamodb import FakeDynamoDB, make_error
from tests.testkit.kinesis import NOW, make_content, make_record, read_sequence

MIB = 2**20


class Context:
    def __init__(self, remaining_ms: int = 60_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDynamoDB]:
    fake = FakeDynamoDB()
    monkeypatch.setattr(lambda_consumer.Tables, "_resource", fake)
    for name in ("latest", "history", "rejects"):
        table = "dataflow_mongo" if name == "latest" else f"dataflow_{name}"
        monkeypatch.setenv(f"TABLE_{name.upper()}", table)
    monkeypatch.delenv("PARTIAL_BATCH", raising=False)
    return fake


def call(*contents: bytes | str, remaining_ms: int = 60_000) -> Any:
    records = [make_record(content, number) for number, content in enumerate(contents, 1)]
    return lambda_handler({"Records": records}, Context(remaining_ms))


def list_items(database: FakeDynamoDB, table: str) -> list[dict[str, Any]]:
    return list(database.tables[f"dataflow_{table}"].values())


def nest(depth: int) -> Any:
    return [] if depth == 1 else [nest(depth - 1)]


def test_the_source_s_record_is_stored(database: FakeDynamoDB, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(make_content()) == {"batchItemFailures": []}
    (item,) = list_items(database, "history")
    assert list_items(database, "mongo") == [item]
    assert (item["ville"], item["pays"], item["aeroport"]) == ("Dakar", "Sénégal", "DSS")
    assert item["data"] == {"temp": 30, "pm2_5": 12}
    assert item["timestamp"] == 1_731_400_000
    assert item["observed"] == "2024-11-12T08:26:40.000000Z"
    assert item["sequence"] == read_sequence(make_record(b""))
    assert item["expires"] == int(NOW) + 30 * 86_400, "an old observation is kept as long as a new one"
    line = json.loads(capsys.readouterr().out)
    assert line == {
        "outcome": "stored", "sequence": item["sequence"], "ville": "Dakar", "event_id": item["event_id"],
    }  # fmt: skip


BAD = {
    "no base64": ("%%%", Reason.INVALID_BASE64),
    "no UTF-8": (b"\xff", Reason.INVALID_UTF8),
    "no JSON": (b"{", Reason.INVALID_JSON),
    "nothing": (b"", Reason.INVALID_JSON),
    "BOM": ("\ufeff{}".encode(), Reason.INVALID_JSON),
    "NaN": (make_content(temp=float("nan")), Reason.INVALID_JSON),
    "Infinity": (make_content(temp=float("-inf")), Reason.INVALID_JSON),
    "a list": (b"[]", Reason.NOT_AN_OBJECT),
    "no city": (b'{"data": {}, "timestamp": 1}', Reason.MISSING_FIELD),
    "a city of another type": (make_content(ville=1), Reason.WRONG_TYPE),  # type: ignore[arg-type]
    "an empty city": (make_content(ville=" "), Reason.INVALID_TEXT),
    "a control character": (make_content(ville="Da\0kar"), Reason.INVALID_TEXT),
    "a long city": (make_content(ville="a" * 201), Reason.INVALID_TEXT),
    "an empty event_id": (make_content(event_id=""), Reason.INVALID_TEXT),
    "a lone surrogate": (make_content().replace(b"30", rb'"\ud800"'), Reason.INVALID_TEXT),
    "a key twice": (b'{"ville": "Dakar", "ville": "Paris"}', Reason.DUPLICATE_KEY),
    "a number of 39 digits": (make_content(temp=10**38 + 1), Reason.INVALID_NUMBER),
    "a float that DynamoDB refuses": (make_content(temp=1e-200), Reason.INVALID_NUMBER),
    "a huge float": (make_content(temp=1e300), Reason.INVALID_NUMBER),
    "a number at the edge": (make_content(temp=1e126), Reason.REFUSED),
    "a time in the future": (make_content(timestamp=NOW + 2 * 86_400), Reason.INVALID_TIMESTAMP),
    "a time before 1970": (make_content(timestamp=-1), Reason.INVALID_TIMESTAMP),
    "a time in milliseconds": (make_content(timestamp=1_731_400_000_000), Reason.INVALID_TIMESTAMP),
    "a time in text": (make_content(timestamp="noon"), Reason.WRONG_TYPE),
    "33 levels": (make_content(deep=nest(32)), Reason.TOO_DEEP),
    "1,000 levels": (make_content().replace(b"30", b"[" * 1_000 + b"]" * 1_000), Reason.TOO_DEEP),
    "100,000 levels": (make_content().replace(b"30", b"[" * 100_000 + b"]" * 100_000), Reason.TOO_DEEP),
    "1 MB": (make_content(note="x" * 1_000_000), Reason.TOO_LARGE),
    "small as JSON, large as an item": (make_content().replace(b"30", b"[" + b"0," * 140_000 + b"0]"), Reason.REFUSED),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_put_aside_and_blocks_nothing(database: FakeDynamoDB, name: str) -> None:
    content, reason = BAD[name]
    assert call(make_content("Thiès"), content, make_content("Kayes")) == {"batchItemFailures": []}
    assert {item["ville"] for item in list_items(database, "history")} == {"Thiès", "Kayes"}
    parts = list_items(database, "rejects")
    assert {part["reason"] for part in parts} == {reason}
    assert [part["parts"] for part in parts] == [len(parts)] * len(parts)
    raw = b"".join(part["raw"].value for part in parts)
    assert raw == (content if isinstance(content, bytes) else content.encode()), "byte for byte"
    assert {part["is_decoded"] for part in parts} == {isinstance(content, bytes)}


def test_a_record_of_1_mib_is_put_aside_in_parts_that_fit(database: FakeDynamoDB) -> None:
    call(b"x" * MIB)
    keys = [part["sequence#part"] for part in list_items(database, "rejects")]
    assert keys == [f"{read_sequence(make_record(b''))}#{number:04d}" for number in range(4)]


@pytest.mark.parametrize("depth", [1, 31])
def test_content_that_dynamodb_takes_is_stored(database: FakeDynamoDB, depth: int) -> None:
    call(make_content(deep=nest(depth), small=1e-120, large=1e120, none=None, yes=True, empty="", text="é" * 1_000))
    (item,) = list_items(database, "history")
    assert item["data"]["small"] == Decimal("1E-120")
    assert list_items(database, "rejects") == []


def test_a_city_in_two_unicode_forms_is_one_city(database: FakeDynamoDB) -> None:
    forms = [unicodedata.normalize(form, "Thiès") for form in ("NFD", "NFC")]
    assert forms[0] != forms[1]
    call(*(make_content(city) for city in forms), make_content(" Thiès "))
    (item,) = list_items(database, "history")
    assert (item["ville"], item["ville_source"]) == (forms[1], forms[0])
    call(make_content("thiès"))
    assert len(list_items(database, "mongo")) == 2, "a lower-case letter is another letter"


def test_repeats_and_late_records_change_nothing(database: FakeDynamoDB, capsys: pytest.CaptureFixture[str]) -> None:
    newer, older = make_content(timestamp=1_731_400_000.5), make_content(timestamp=1_731_400_000)
    call(newer, older, newer, older)
    outcomes = [json.loads(line)["outcome"] for line in capsys.readouterr().out.splitlines()]
    assert outcomes == ["stored", "late", "repeated", "repeated"]
    assert len(list_items(database, "history")) == 2
    (latest,) = list_items(database, "mongo")
    assert latest["observed"] == "2024-11-12T08:26:40.500000Z"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_observations_of_the_same_time_the_larger_id_is_the_latest(
    database: FakeDynamoDB, order: tuple[str, str]
) -> None:
    call(*(make_content(event_id=one) for one in order))
    assert len(list_items(database, "history")) == 2
    (latest,) = list_items(database, "mongo")
    assert latest["event_id"] == "b"


def test_an_item_of_another_program_is_replaced(database: FakeDynamoDB) -> None:
    database.tables["dataflow_mongo"][("Dakar",)] = {"ville": "Dakar"}
    call(make_content())
    (latest,) = list_items(database, "mongo")
    assert latest["observed"]


PASSING = (
    "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError",
    "ResourceNotFoundException", "AccessDeniedException",
)  # fmt: skip


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize("partial", ["true", "false", None])
def test_a_fault_of_the_table_fails_the_first_record_that_it_meets(
    database: FakeDynamoDB, monkeypatch: pytest.MonkeyPatch, code: str, partial: str | None
) -> None:
    if partial is not None:
        monkeypatch.setenv("PARTIAL_BATCH", partial)
    calls = 0

    def throttle() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:  # both tables of the first record
            raise make_error(code)

    database.before = throttle
    contents = (make_content("Thiès"), make_content("Dakar"), make_content("Kayes"))
    if partial == "true":
        failed = {"itemIdentifier": read_sequence(make_record(b"", 2))}
        assert call(*contents) == {"batchItemFailures": [failed]}
    else:
        with pytest.raises(BatchFailedError, match=code):
            call(*contents)
    assert [item["ville"] for item in list_items(database, "history")] == ["Thiès"]
    database.before = lambda: None
    call(*contents)
    assert {item["ville"] for item in list_items(database, "mongo")} == {"Thiès", "Dakar", "Kayes"}


def test_a_reject_that_cannot_be_written_fails(database: FakeDynamoDB) -> None:
    def throttle() -> None:
        raise make_error("ThrottlingException")

    database.before = throttle
    with pytest.raises(BatchFailedError):
        call(b"{")


def test_what_the_history_takes_is_never_a_reject(database: FakeDynamoDB) -> None:
    """A latest table with other keys is a fault of the deployment."""
    calls = 0

    def refuse() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise make_error("ValidationException")

    database.before = refuse
    with pytest.raises(BatchFailedError, match="ValidationException"):
        call(make_content())
    assert list_items(database, "rejects") == []


def test_the_function_stops_before_its_time_is_over_but_always_tries_the_first_record(database: FakeDynamoDB) -> None:
    with pytest.raises(BatchFailedError, match="no time is left"):
        call(make_content("Thiès"), make_content("Dakar"), remaining_ms=2_999)
    assert [item["ville"] for item in list_items(database, "history")] == ["Thiès"]
    call(make_content("Kayes"), remaining_ms=1)


def test_an_unexpected_fault_does_not_block_the_shard(database: FakeDynamoDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_consumer, "_check_texts", lambda _: 1 / 0)
    call(make_content())
    (reject,) = list_items(database, "rejects")
    assert (reject["reason"], reject["detail"]) == ("unexpected", "ZeroDivisionError: division by zero")


def test_the_source_s_table_suffices(
    database: FakeDynamoDB, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TABLE_LATEST", "TABLE_HISTORY", "TABLE_REJECTS"):
        monkeypatch.delenv(name)
    call(make_content(), b"{")
    assert len(list_items(database, "mongo")) == 1
    assert list_items(database, "history") == list_items(database, "rejects") == []
    assert json.loads(capsys.readouterr().out.splitlines()[1])["reason"] == "invalid_json"


def test_sequence_numbers_are_texts_that_sort_like_numbers(database: FakeDynamoDB) -> None:
    record = make_record(make_content())
    record["kinesis"]["sequenceNumber"] = "7"  # an emulator's are shorter
    lambda_handler({"Records": [record]}, Context())
    (item,) = list_items(database, "history")
    assert item["sequence"] == "7".zfill(56)


def test_no_records_are_no_failure(database: FakeDynamoDB) -> None:
    assert lambda_handler({"Records": []}, Context()) == {"batchItemFailures": []}
