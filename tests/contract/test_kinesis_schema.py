"""The JSON Schema of the stream's records, the consumer and the producer agree."""

from __future__ import annotations

import base64
import json
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

import generate_weather
from flight_lines import Options
from flight_weather import AIRPORTS, read_airports
from jobs.serverless.lambda_consumer import Reason, RejectedError, make_item
from jobs.serverless.vertical import STREAM
from jobs.settings import ROOT
from kinesis_records import FAULTS, OTHER_FORM, Mixer, Record, make_record
from weather_observation import make_weather
from weather_observation import read_airports as read_producer_airports

FILE = ROOT / "infra" / "kinesis" / "weather_stream.schema.json"
SCHEMA = json.loads(FILE.read_text(encoding="utf-8"))
WEATHER = json.loads((ROOT / "infra/kafka/schemas/weather.schema.json").read_text(encoding="utf-8"))
REGISTRY: Registry[Any] = Registry().with_resource(WEATHER["$id"], Resource.from_contents(WEATHER))
VALIDATOR = Draft202012Validator(SCHEMA, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER)
# Reasons that a schema can see. The others are about bytes, digits, and what DynamoDB says.
SHAPE = {
    Reason.NOT_AN_OBJECT, Reason.MISSING_FIELD, Reason.WRONG_TYPE, Reason.INVALID_TEXT, Reason.INVALID_TIMESTAMP,
}  # fmt: skip

SOURCE = {
    "ville": "Dakar", "pays": "Sénégal", "aeroport": "DSS", "data": {"temp": 30, "pm2_5": 12}, "timestamp": 1731400000,
}  # fmt: skip


def consume(value: bytes) -> dict[str, Any] | Reason:
    """The item that the consumer makes, or the reason for a reject."""
    kinesis = {
        "data": base64.b64encode(value).decode(),
        "sequenceNumber": "7",
        "approximateArrivalTimestamp": time.time(),
    }
    try:
        return make_item({"kinesis": kinesis, "eventID": "shardId-000000000000:7"})
    except RejectedError as error:
        return error.reason


def encode(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def assert_agreed(content: Any) -> bool:
    """What the schema accepts is stored, and so what the consumer rejects for its shape the schema refuses.

    Returns whether the schema accepts the content.
    """
    is_valid = VALIDATOR.is_valid(content)
    outcome = consume(encode(content))
    if is_valid:
        assert isinstance(outcome, dict), (outcome, content)
    return is_valid


def generate(count: int) -> list[Record]:
    """Records of generated weather."""
    options = Options(count, 0, 1, 0, 0, datetime.now(UTC) - timedelta(days=1), timedelta(seconds=40))
    airports = read_producer_airports()
    contents = islice(generate_weather.draw_weather(read_airports(AIRPORTS), options), count)
    return [make_record(make_weather(content, airports, "generator", "line 1"), airports) for content in contents]


def test_the_schema_is_valid_and_refers_to_the_weather_of_the_flights() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == f"urn:datastream:{STREAM}"
    assert FILE.name == f"{STREAM}.schema.json"
    assert SCHEMA["properties"]["data"]["then"] == {"$ref": WEATHER["$id"]}
    assert "temperature" not in FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ville": "São Paulo"},
        {"ville": unicodedata.normalize("NFD", "São Paulo")},
        {"ville": " Dakar "},
        {"ville": "مكة"},
        {"ville": "東京"},
        {"pays": None, "aeroport": None},
        {"timestamp": 0},
        {"timestamp": 1731400000.25},
        {"data": {}},
        {"data": {"event_id": "a", "temp": None, "is_night": True, "condition": ""}},
        {"note": 1},
    ],
)
def test_valid_records_are_stored(changes: dict[str, Any]) -> None:
    assert assert_agreed(SOURCE | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(({name: None}, Reason.MISSING_FIELD) for name in ("ville", "data", "timestamp")),
        ({"ville": 7}, Reason.WRONG_TYPE),
        ({"pays": 7}, Reason.WRONG_TYPE),
        ({"aeroport": ["DSS"]}, Reason.WRONG_TYPE),
        ({"data": [1]}, Reason.WRONG_TYPE),
        ({"data": {"event_id": 7}}, Reason.WRONG_TYPE),
        ({"timestamp": "1731400000"}, Reason.WRONG_TYPE),
        ({"timestamp": True}, Reason.WRONG_TYPE),
        ({"ville": ""}, Reason.INVALID_TEXT),
        ({"ville": "  "}, Reason.INVALID_TEXT),
        ({"ville": "Da\tkar"}, Reason.INVALID_TEXT),
        ({"ville": "Dakar\u200b"}, Reason.INVALID_TEXT),
        ({"ville": "Dakar\n"}, Reason.INVALID_TEXT),
        ({"ville": "x" * 201}, Reason.INVALID_TEXT),
        ({"data": {"event_id": " "}}, Reason.INVALID_TEXT),
        ({"timestamp": -1}, Reason.INVALID_TIMESTAMP),
        ({"timestamp": 4_102_444_800}, Reason.INVALID_TIMESTAMP),
        ({"timestamp": 1_731_400_000_000}, Reason.INVALID_TIMESTAMP),
    ],
)
def test_what_the_consumer_rejects_for_its_shape_the_schema_refuses(changes: dict[str, Any], reason: Reason) -> None:
    assert consume(encode(SOURCE | changes)) == reason
    assert reason in SHAPE
    assert not VALIDATOR.is_valid(SOURCE | changes)


KEYS = st.one_of(
    st.text(max_size=4),
    st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs", "Cc", "Cf", "Zl", "Zp"]), max_size=4),
    st.sampled_from(["Dakar", "São Paulo", " x", "x" * 200, "x" * 201, "\U000e0001", None, 7, True]),
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(-1e6, 1e6), st.text(max_size=4))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "ville": KEYS,
            "pays": KEYS,
            "aeroport": KEYS,
            "timestamp": st.integers(-1, 4_200_000_000) | st.floats(-1, 1.7e9).map(lambda x: round(x, 6)) | VALUES,
            "data": st.dictionaries(st.sampled_from(["event_id", "temp", "note", "place_id"]), KEYS | VALUES) | VALUES,
            "note": VALUES,
        },
    )
)
@settings(max_examples=100, deadline=None)
def test_the_schema_accepts_only_what_is_stored(content: dict[str, Any]) -> None:
    numbers = [content.get("timestamp"), *(content["data"].values() if isinstance(content.get("data"), dict) else [])]
    # The two rules that a schema cannot say.
    ahead = time.time() + 86_000
    if any(isinstance(one, int | float) and (one > ahead or (one and abs(one) < 1e-100)) for one in numbers):
        return
    if all(_is_encodable(one) for one in (str(content), *map(str, content.values()))):
        assert_agreed(content)


def _is_encodable(text: str) -> bool:
    return not any(0xD800 <= ord(one) <= 0xDFFF for one in text)


@given(KEYS.filter(lambda text: isinstance(text, str)))
@settings(max_examples=100, deadline=None)
def test_the_schema_and_the_consumer_have_the_same_cities(city: str) -> None:
    # A new version of Unicode assigns characters; neither Python nor the schema has to know them.
    if _is_encodable(city) and not any(unicodedata.category(one) == "Cn" for one in city):
        assert assert_agreed(SOURCE | {"ville": city}) == isinstance(consume(encode(SOURCE | {"ville": city})), dict)


# --- The producer's records -------------------------------------------------------------------------------------------


def test_records_of_the_producer_match_the_schema_and_are_stored() -> None:
    for record in generate(200):
        content = json.loads(record.value)
        VALIDATOR.validate(content)
        item = consume(record.value)
        assert isinstance(item, dict)
        assert item["ville"] == record.key == content["ville"]
        assert item["event_id"] == content["data"]["event_id"]
        assert item["observed"] == content["data"]["observed_at"]


def test_an_observation_that_breaks_the_contract_of_the_flights_is_refused() -> None:
    content = json.loads(generate(1)[0].value)
    assert not VALIDATOR.is_valid(content | {"data": content["data"] | {"humidity_pct": 101}})
    assert not VALIDATOR.is_valid(content | {"data": content["data"] | {"note": 1}})


@pytest.mark.parametrize("label", FAULTS)
def test_the_consumer_rejects_each_fault_for_its_reason(label: str) -> None:
    record = next(record for record in generate(30) if record.key == "São Paulo")
    faulty = FAULTS[label](json.loads(record.value))
    outcome = consume(faulty)
    if label == OTHER_FORM:
        assert faulty != record.value
        assert isinstance(outcome, dict)
        before = consume(record.value)
        assert isinstance(before, dict)
        assert {name for name in outcome if outcome[name] != before[name]} - {"arrived"} == {"ville_source"}
        VALIDATOR.validate(json.loads(faulty))
    else:
        assert outcome == label.partition("/")[0]
        if outcome in SHAPE and outcome != Reason.INVALID_TIMESTAMP:
            assert not VALIDATOR.is_valid(json.loads(faulty))


def test_the_mixer_makes_each_fault() -> None:
    mixer = Mixer(seed=1, faulty=0.2, duplicates=0)
    labels = {mixed.kind for record in generate(400) for mixed in mixer.mix(record)}
    assert labels == {*FAULTS, "observation"}
    assert {label.partition("/")[0] for label in FAULTS} - {OTHER_FORM} == set(Reason) - {
        Reason.INVALID_BASE64,  # the client encodes
        Reason.TOO_DEEP,
        Reason.REFUSED,
        Reason.UNEXPECTED,
    }
