"""The JSON Schemas and the code agree."""

from __future__ import annotations

import json
import random
from itertools import islice

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from jobs.kafka.dead_letter import REPLAYED, Headers, Origin, make_replay_headers
from jobs.kafka.publish import make_error_headers
from jobs.kafka.staged import REJECT_SCHEMA
from jobs.rides.contract import COMFORTS, Reason, Ride
from jobs.rides.transform import PricedRide
from jobs.settings import ROOT
from jobs.verticals import load_declared_topics, merge_settings
from ride_faults import FAULTS, draw_faults
from tests.testkit.rides import result, ride

SCHEMAS = {path.name.split(".")[0]: json.loads(path.read_text()) for path in ROOT.glob("infra/kafka/schemas/*.json")}
REASON = "__connect.errors.exception.class.name"


def test_each_topic_has_a_schema() -> None:
    topics = load_declared_topics(merge_settings()(_env_file=None))  # type: ignore[call-arg]
    # Spark's topics hold what the rides' topics hold.
    assert set(SCHEMAS) == {topic.name.removesuffix("_spark") for topic in topics}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_valid_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_code_schema_and_producer_share_the_reject_reasons() -> None:
    assert SCHEMAS["rides_dlq"]["properties"][REASON]["enum"] == [str(reason) for reason in Reason]
    later = {Reason.INVALID_RESULT, Reason.REFUSED_BY_ELASTICSEARCH, Reason.UNEXPECTED}
    assert set(FAULTS) == set(Reason) - later
    assert {label for label, _ in islice(draw_faults(random.Random(7)), 100)} == set(FAULTS)


def test_code_and_schemas_have_the_same_fields() -> None:
    fields = set(Ride.__struct_fields__)
    assert set(SCHEMAS["rides_raw"]["properties"]) == set(SCHEMAS["rides_raw"]["required"]) == fields
    priced = {*fields, "distance_km", "price_total"}
    assert set(SCHEMAS["rides_result"]["properties"]) == set(SCHEMAS["rides_result"]["required"]) == priced
    assert set(PricedRide.__struct_fields__) == priced


def test_code_and_schemas_have_the_same_comforts() -> None:
    assert set(SCHEMAS["rides_raw"]["properties"]["comfort"]["enum"]) == set(COMFORTS)
    assert set(SCHEMAS["rides_result"]["properties"]["comfort"]["enum"]) == set(COMFORTS.values())


@pytest.mark.parametrize("name", ["rides_raw", "rides_result"])
def test_schemas_allow_unknown_fields_at_every_level(name: str) -> None:
    content = ride() if name == "rides_raw" else result()
    content |= {"driver": {}, "origin": {**content["origin"], "name": "Bryant Park"}}
    Draft202012Validator(SCHEMAS[name]).validate(content)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("stage", ["TRANSFORMATION", "VALUE_CONVERTER", "TASK_PUT"])
def test_dead_letter_headers_match_their_schema(reason: Reason, stage: str) -> None:
    origin = Origin("rides_raw", 5, "dag_compute_cost", "ComputeCostTravel", stage)
    text = "é" * 5000
    validator = Draft202012Validator(SCHEMAS["rides_dlq"])

    def letter(before: Headers, reason: str, stacktrace: str | None) -> dict[str, str]:
        row = {"offset": 0, "reason": reason, "message": text, "stacktrace": stacktrace}
        (error,) = make_error_headers(pa.RecordBatch.from_pylist([row], REJECT_SCHEMA))
        return {name: (value or b"").decode() for name, value in [*before, *origin.headers, *error]}

    validator.validate(letter([], reason, None))
    validator.validate(letter(make_replay_headers(None), reason, text))
    assert not validator.is_valid(letter([], "another", None))
    assert not validator.is_valid(letter([(REPLAYED, b"0")], reason, None))
