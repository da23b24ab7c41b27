"""The function, the deployment and the ledger on MiniStack."""

from __future__ import annotations

import json
import signal
import unicodedata
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.ledger.verdict import Verdict
from jobs.serverless import deploy as deployment
from jobs.serverless import lambda_consumer
from jobs.serverless import ledger as ledger_module
from jobs.serverless.aws import make_client, make_table
from jobs.serverless.deploy import deploy, destroy
from jobs.serverless.lambda_consumer import KEY
from jobs.serverless.ledger import Ledger
from jobs.serverless.places import wait_until_stored
from jobs.serverless.redrive import redrive
from jobs.serverless.stream import list_shards, read_shard
from jobs.serverless.tables import read_log, scan_items
from jobs.serverless.vertical import FUNCTION, HISTORY, LATEST, QUEUE, REJECTS, STREAM
from tests.integration.serverless.conftest import Put
from tests.testkit.dynamodb import KEYS, FakeDynamoDB
from tests.testkit.kinesis import make_content
from tests.testkit.wait import until

WAIT_S = 60
NOON = 1_731_400_000

Count = Callable[[], Ledger]


def find_process(settings: Any) -> psutil.Process:
    return psutil.Process(supervisor.read_states(Paths(settings.datastream_state))["aws"].pid)


def find_workers(settings: Any) -> list[psutil.Process]:
    return [child for child in find_process(settings).children() if "_worker.py" in " ".join(child.cmdline())]


def find_mapping(settings: Any) -> str:
    (mapping,) = make_client(settings, "lambda").list_event_source_mappings(FunctionName=FUNCTION)[
        "EventSourceMappings"
    ]
    uuid: str = mapping["UUID"]
    return uuid


def switch_mapping(settings: Any, *, is_on: bool) -> None:
    make_client(settings, "lambda").update_event_source_mapping(UUID=find_mapping(settings), Enabled=is_on)


# --- Bad input ------------------------------------------------------------------------------------


def test_every_record_ends_up_in_one_place(aws: Any, put: Put, count: Count) -> None:
    decomposed = unicodedata.normalize("NFD", "Thiès")
    newest = make_content("Thiès", NOON + 120, event_id="c")
    put(
        newest, make_content("Thiès", NOON, event_id="a"), newest, make_content(decomposed, NOON, event_id="a"),
        b"\xff", b"{", make_content(temp=float("nan")), make_content(temp=1e-200), make_content(timestamp=-1),
        make_content(deep=json.loads("[" * 40 + "]" * 40)), b"x" * 2**20, make_content("Dakar"),
    )  # fmt: skip
    assert wait_until_stored(aws, WAIT_S) == 12
    ledger = count()
    assert ledger.faults == []
    assert ledger.verdict is Verdict.BALANCED
    assert (ledger.put, ledger.history, ledger.repeats, ledger.cities) == (12, 3, 2, 2)
    assert ledger.rejects_by_reason == {
        "invalid_utf8": 1, "invalid_json": 2, "invalid_number": 1, "invalid_timestamp": 1, "too_deep": 1,
        "too_large": 1,
    }  # fmt: skip
    latest = {item["ville"]: item for item in scan_items(aws, LATEST)}
    assert latest["Thiès"]["event_id"] == "c", "an older record after a newer one"
    large = {item["sequence#part"]: item for item in scan_items(aws, REJECTS) if item["reason"] == "too_large"}
    assert b"".join(large[key]["raw"].value for key in sorted(large)) == b"x" * 2**20


def test_log_lines_name_each_record_but_not_its_content(aws: Any, put: Put) -> None:
    good, bad = put(make_content(note="hidden"), b"{hidden")
    wait_until_stored(aws, WAIT_S)

    def read() -> dict[str, str]:
        lines = [json.loads(line) for line in read_log(aws, 100) if line.startswith("{")]
        return {line["sequence"]: line["outcome"] for line in lines}

    until(lambda: read() == {good: "stored", bad: "rejected"}, "the lines are in CloudWatch Logs")
    assert "hidden" not in "\n".join(read_log(aws, 100))


# --- Faults ---------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_in_mid_batch_loses_nothing(aws: Any, put: Put, count: Count) -> None:
    table = make_table(aws, HISTORY)
    put(*(make_content(timestamp=NOON + number) for number in range(300)))
    until(lambda: table.scan(Select="COUNT")["Count"] % 100 > 0, "a batch is under way", WAIT_S)
    for worker in find_workers(aws):
        worker.send_signal(signal.SIGKILL)
    assert table.scan(Select="COUNT")["Count"] < 300, "killed too late"
    wait_until_stored(aws, WAIT_S)
    ledger = count()
    assert (ledger.faults, ledger.history, ledger.repeats) == ([], 300, 0)


def test_a_table_that_is_away_fails_the_batch_and_skips_nothing(aws: Any, put: Put, count: Count) -> None:
    make_client(aws, "dynamodb").delete_table(TableName=HISTORY)
    put(make_content("Dakar"), b"{", make_content("Thiès"))
    until(lambda: any('"failed"' in line for line in read_log(aws, 100)), "the function has failed", WAIT_S)
    deploy(aws)
    wait_until_stored(aws, WAIT_S)
    ledger = count()
    assert (ledger.faults, ledger.history, sum(ledger.rejects_by_reason.values())) == ([], 2, 1)


def test_the_emulator_keeps_data_and_position_when_it_is_stopped(aws: Any, put: Put, count: Count) -> None:
    put(*(make_content(timestamp=NOON + number) for number in range(20)), b"{")
    wait_until_stored(aws, WAIT_S)
    before = count()
    stack = local_stack(aws)
    stack.down()
    stack.up(["aws"])
    assert count() == before
    put(make_content("Thiès"))
    wait_until_stored(aws, WAIT_S)
    assert count().history == 21
    outcomes = [
        line["outcome"] for line in map(json.loads, filter(lambda line: line.startswith("{"), read_log(aws, 100)))
    ]
    assert "repeated" not in outcomes, "it goes on where it was"


def test_the_emulator_listens_on_the_loopback_only(aws: Any, put: Put) -> None:
    put(make_content())
    wait_until_stored(aws, WAIT_S)
    process = find_process(aws)
    listening = {
        connection.laddr.ip
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_functions_do_not_get_the_login_of_aws(emulator: Any) -> None:
    variables = find_process(emulator).environ()
    file = str(Paths(emulator.datastream_state).service("aws") / "config")
    assert {variables[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")} == {"test"}
    assert {variables[f"AWS_{name}"] for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE")} == {file}
    assert variables["AWS_PROFILE"] == "default"
    assert not any(variables.get(f"AWS_{name}") for name in ("SESSION_TOKEN", "ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE"))


# --- Deployment -----------------------------------------------------------------------------------


def test_a_second_deployment_changes_nothing(aws: Any, put: Put, count: Count) -> None:
    put(make_content())
    wait_until_stored(aws, WAIT_S)
    lines: list[str] = []
    deploy(aws, lines.append)
    assert len(lines) == 9
    assert all(line.startswith("unchanged: ") for line in lines), lines
    assert count().history == 1


def test_a_changed_function_is_updated_and_a_changed_mapping_set_right(
    aws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, put: Put, count: Count
) -> None:
    changed = tmp_path / "lambda_consumer.py"
    changed.write_text(deployment.SOURCE.read_text() + "# changed\n")
    monkeypatch.setattr(deployment, "SOURCE", changed)
    client = make_client(aws, "lambda")
    client.update_event_source_mapping(UUID=find_mapping(aws), BatchSize=1, Enabled=False)
    lines: list[str] = []
    deploy(aws, lines.append)
    updated = [line for line in lines if not line.startswith("unchanged")]
    assert updated == [f"updated: function {FUNCTION}", f"updated: mapping of {STREAM} to {FUNCTION}"]
    mapping = client.get_event_source_mapping(UUID=find_mapping(aws))
    assert (mapping["State"], mapping["BatchSize"], mapping["MaximumRetryAttempts"]) == ("Enabled", 100, 5)
    put(make_content())
    wait_until_stored(aws, WAIT_S)
    assert count().history == 1


def test_a_mapping_that_starts_at_the_end_is_replaced(aws: Any, put: Put, count: Count) -> None:
    client = make_client(aws, "lambda")
    old = find_mapping(aws)
    arn = client.get_event_source_mapping(UUID=old)["EventSourceArn"]
    client.delete_event_source_mapping(UUID=old)
    put(make_content())
    client.create_event_source_mapping(
        FunctionName=FUNCTION, EventSourceArn=arn, StartingPosition="LATEST", BatchSize=1
    )
    deploy(aws)
    wait_until_stored(aws, WAIT_S)
    assert count().history == 1


def test_a_table_with_other_keys_is_an_error(aws: Any) -> None:
    client = make_client(aws, "dynamodb")
    client.delete_table(TableName=HISTORY)
    client.create_table(
        TableName=HISTORY, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"dataflow_history has the key \(id\)"):
        deploy(aws)


def test_what_is_destroyed_is_gone_and_can_be_destroyed_again(aws: Any, count: Count) -> None:
    destroy(aws)
    destroy(aws)
    assert make_client(aws, "dynamodb").list_tables()["TableNames"] == []
    with pytest.raises(ConfigurationError, match="make serverless-deploy"):
        count()


def test_ministack_under_the_name_of_localstack_is_refused(aws: Any) -> None:
    """It would skip the records that fail."""
    with pytest.raises(ConfigurationError, match="but MiniStack answers"):
        deploy(aws.model_copy(update={"serverless_emulator": "localstack"}))


def test_the_function_is_tried(aws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    broken = tmp_path / "lambda_consumer.py"
    broken.write_text("import absent\n")
    monkeypatch.setattr(deployment, "SOURCE", broken)
    with pytest.raises(ServiceUnavailableError, match="absent"):
        deploy(aws)


# --- Ledger ---------------------------------------------------------------------------------------


def test_the_ledger_finds_what_is_lost_doubled_and_outdated(
    aws: Any, put: Put, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SETTLE_S", 0)
    sequences = put(*(make_content(timestamp=NOON + number) for number in range(5)), b"{")
    wait_until_stored(aws, WAIT_S)
    history, latest, rejects = (make_table(aws, name) for name in (HISTORY, LATEST, REJECTS))
    first, *_, last = sorted(scan_items(aws, HISTORY), key=lambda item: item[KEY])

    history.delete_item(Key={"ville": first["ville"], KEY: first[KEY]})
    ledger = count()
    assert (ledger.exit_code, ledger.lost, ledger.doubled, ledger.missing) == (1, 1, 0, [sequences[0]])
    history.put_item(Item=first)

    history.put_item(Item=first | {"ville": "Nowhere", "sequence": "1".zfill(56)})
    ledger = count()
    assert (ledger.exit_code, ledger.lost, ledger.doubled) == (1, 1, 1), "Nowhere is not among the latest, either"
    history.delete_item(Key={"ville": "Nowhere", KEY: first[KEY]})

    (reject,) = scan_items(aws, REJECTS)
    rejects.put_item(Item=reject | {"sequence#part": f"{last['sequence']}#0000"})
    assert (count().exit_code, count().doubled) == (1, 1)
    rejects.delete_item(Key={"shard": reject["shard"], "sequence#part": f"{last['sequence']}#0000"})

    latest.put_item(Item=first)
    ledger = count()
    assert (ledger.exit_code, ledger.outdated) == (1, 1)
    latest.put_item(Item=last)
    assert count().verdict is Verdict.BALANCED


def test_records_that_the_function_has_not_had_are_in_flight(aws: Any, put: Put, count: Count) -> None:
    switch_mapping(aws, is_on=False)
    put(make_content(), b"{")
    ledger = count()
    assert (ledger.verdict, ledger.put, ledger.in_flight) == (Verdict.IN_PROGRESS, 2, 2)
    with pytest.raises(ServiceUnavailableError, match="2 of 2 records were not stored"):
        wait_until_stored(aws, 0.1)
    switch_mapping(aws, is_on=True)
    wait_until_stored(aws, WAIT_S)
    assert count().verdict is Verdict.BALANCED


def test_what_the_mapping_gave_up_is_redriven(aws: Any, put: Put, count: Count) -> None:
    """AWS sends such a message; the emulator does not."""
    switch_mapping(aws, is_on=False)
    sequences = put(*(make_content(timestamp=NOON + number) for number in range(150)), b"{", make_content("Thiès"))
    (shard,) = list_shards(aws)
    batch = {
        "shardId": shard, "startSequenceNumber": sequences[1], "endSequenceNumber": sequences[150], "batchSize": 150,
    }  # fmt: skip
    sqs = make_client(aws, "sqs")
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"KinesisBatchInfo": batch}))
    assert count().given_up == 1
    assert redrive(aws) == (1, 150)
    ledger = count()
    assert (ledger.given_up, ledger.history, ledger.in_flight, ledger.missing) == (0, 149, 1, [sequences[0]])
    assert redrive(aws) == (0, 0)
    switch_mapping(aws, is_on=True)
    wait_until_stored(aws, WAIT_S)
    assert count().verdict is Verdict.BALANCED


def test_the_stream_is_read_as_the_function_gets_it(aws: Any, put: Put) -> None:
    sequences = put(make_content(), b"\xff\x00", b"")
    (shard,) = list_shards(aws)
    records = list(read_shard(aws, shard))
    assert [record["kinesis"]["sequenceNumber"] for record in records] == sequences
    assert [lambda_consumer.read_shard(record) for record in records] == [shard] * 3
    assert lambda_consumer.decode(records[1]) == b"\xff\x00"


# --- The fake of the unit tests -------------------------------------------------------------------


def test_the_fake_of_the_unit_tests_answers_as_the_emulator(emulator: Any, aws: Any) -> None:
    fake = FakeDynamoDB()
    attributes = {"ExpressionAttributeNames": {"#key": KEY}}
    item = {"ville": "D", "shard": "s", "sequence#part": "1", KEY: "b"}
    calls = [
        (table, item | {KEY: value}, condition, {**attributes, "ExpressionAttributeValues": {":key": value}})
        for table in (HISTORY, LATEST)
        for value in ("b", "a", "b", "c", "c#é", "c#z")
        for condition in ("attribute_not_exists(#key) OR #key < :key",)
    ]
    calls += [(HISTORY, item | {KEY: value}, "attribute_not_exists(ville)", {}) for value in ("b", "d", "d")]
    calls += [(REJECTS, item, None, {})] * 2
    calls += [(LATEST, {"ville": "", KEY: "b"}, None, {}), (LATEST, {KEY: "b"}, None, {})]
    assert {table for table, *_ in calls} == set(KEYS)
    for table, put, condition, names in calls:
        options = {"Item": put, **names} | ({"ConditionExpression": condition} if condition else {})
        answers = []
        for one in (fake.Table(table), make_table(aws, table)):
            try:
                one.put_item(**options)
                answers.append("")
            except ClientError as error:
                answers.append(error.response["Error"]["Code"])
        assert answers[0] == answers[1], (table, put, condition)
    for table in KEYS:
        assert sorted(map(str, fake.tables[table].values())) == sorted(map(str, scan_items(aws, table)))
