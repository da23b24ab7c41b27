"""An emulator of AWS with the vertical deployed, empty for each test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.clients import Systems
from jobs.serverless.aws import make_client
from jobs.serverless.deploy import deploy
from jobs.serverless.ledger import Ledger, take_ledger
from jobs.serverless.vertical import STREAM
from jobs.settings import ROOT
from tests.testkit.stack import guarded

Put = Callable[..., list[str]]


@pytest.fixture(scope="package")
def emulator() -> Iterator[Any]:
    """The settings of a running emulator."""
    subprocess.run(["make", ".venv-serverless/.stamp"], cwd=ROOT, check=True, timeout=300)
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["aws"])
        yield settings


@pytest.fixture
def aws(emulator: Any) -> Any:
    """The settings of an emulator without records."""
    empty(emulator)
    deploy(emulator)
    return emulator


def empty(settings: Any) -> None:
    """Delete all but the function, whose process takes a second to start."""
    lambdas, dynamodb = make_client(settings, "lambda"), make_client(settings, "dynamodb")
    for mapping in lambdas.list_event_source_mappings()["EventSourceMappings"]:
        lambdas.delete_event_source_mapping(UUID=mapping["UUID"])
    for name in dynamodb.list_tables()["TableNames"]:
        dynamodb.delete_table(TableName=name)
    for name in make_client(settings, "kinesis").list_streams()["StreamNames"]:
        make_client(settings, "kinesis").delete_stream(StreamName=name)
    for group in make_client(settings, "logs").describe_log_groups()["logGroups"]:
        make_client(settings, "logs").delete_log_group(logGroupName=group["logGroupName"])


@pytest.fixture
def put(aws: Any) -> Put:
    """Puts records with these contents; returns their sequence numbers."""
    client = make_client(aws, "kinesis")

    def put_all(*contents: bytes) -> list[str]:
        sequences = []
        for start in range(0, len(contents), 500):
            records = [{"Data": content, "PartitionKey": "1"} for content in contents[start : start + 500]]
            answer = client.put_records(StreamName=STREAM, Records=records)
            assert answer["FailedRecordCount"] == 0
            sequences += [record["SequenceNumber"] for record in answer["Records"]]
        return sequences

    return put_all


@pytest.fixture
def count(aws: Any) -> Callable[[], Ledger]:
    """Takes the ledger."""
    return lambda: take_ledger(Systems(aws))
