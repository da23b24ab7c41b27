"""Deploys the serverless vertical to an emulator: stream, tables, queue, role, function, mapping.

Safe to repeat: only what differs is changed. infra/terraform/aws deploys the same to AWS.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
from botocore.exceptions import ClientError

from jobs.clients import make_local_session
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.serverless import lambda_consumer
from jobs.serverless.aws import TERRAFORM, make_client, translate_errors
from jobs.serverless.vertical import (
    FUNCTION,
    HISTORY,
    LATEST,
    LOG_GROUP,
    QUEUE,
    REJECTS,
    ROLE,
    STREAM,
    ServerlessSettings,
)
from jobs.settings import ROOT

Report = Callable[[str], object]

HANDLER = "lambda_consumer.lambda_handler"
SOURCE = ROOT / "jobs" / "serverless" / "lambda_consumer.py"
# Keys of the tables: hash, range.
KEYS = {LATEST: ("ville",), HISTORY: ("ville", lambda_consumer.KEY), REJECTS: ("shard", "sequence#part")}
TTL_ATTRIBUTE = "expires"
SHARDS = 1
DAY_S = 86_400
READY_S = 60
HEALTH_S = 3
POLL_S = 0.2

# An update of the mapping takes the same settings, except for the start.
MAPPING: dict[str, Any] = {
    "BatchSize": 100,
    "MaximumBatchingWindowInSeconds": 1,
    "MaximumRetryAttempts": 5,
    "MaximumRecordAgeInSeconds": 3_600,
    "BisectBatchOnFunctionError": True,
    "FunctionResponseTypes": ["ReportBatchItemFailures"],
}
# LATEST would miss what is put while the mapping is created.
START_AT = "TRIM_HORIZON"
_CONFIGURATION = {"Runtime": "python3.13", "Handler": HANDLER, "Timeout": 60, "MemorySize": 256}
# Where the mapping honours ReportBatchItemFailures. Others skip the records that the function reports.
_PARTIAL_BATCH = ("localstack", "none")
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def deploy(settings: ServerlessSettings, report: Report = lambda _: None) -> None:
    """Create or update everything, wait until it works, call the function once without records.

    Args:
        report: receives a line for each resource.

    Raises:
        ConfigurationError: AWS_EMULATOR is none, or a table has other keys.
        ServiceUnavailableError: the emulator does not answer, or the function does not start.
    """
    _refuse_aws(settings)
    _check_emulator(settings)
    with translate_errors(settings, "deploying"):
        stream = _deploy_stream(settings, report)
        tables = {name: _deploy_table(settings, name, keys, report) for name, keys in KEYS.items()}
        queue = _deploy_queue(settings, report)
        log_group = _deploy_log_group(settings, report)
        role = _deploy_role(settings, make_policy(stream, list(tables.values()), queue, log_group), report)
        _deploy_function(settings, role, report)
        _deploy_mapping(settings, stream, queue, report)
        call_function(settings, [])


def destroy(settings: ServerlessSettings, report: Report = lambda _: None) -> None:
    """Delete everything that `deploy` creates, with all data. Safe when nothing is there."""
    _refuse_aws(settings)
    function, dynamodb = make_client(settings, "lambda"), make_client(settings, "dynamodb")
    queue, role = make_client(settings, "sqs"), make_client(settings, "iam")
    kinesis, logs = make_client(settings, "kinesis"), make_client(settings, "logs")
    with translate_errors(settings, "deleting"):
        for mapping in _list_mappings(function):
            _delete(partial(function.delete_event_source_mapping, UUID=mapping["UUID"]))
        _delete(lambda: function.delete_function(FunctionName=FUNCTION))
        _delete(lambda: logs.delete_log_group(logGroupName=LOG_GROUP))
        _delete(lambda: role.delete_role_policy(RoleName=ROLE, PolicyName=ROLE))
        _delete(lambda: role.delete_role(RoleName=ROLE))
        _delete(lambda: queue.delete_queue(QueueUrl=queue.get_queue_url(QueueName=QUEUE)["QueueUrl"]))
        for name in KEYS:
            _delete(partial(dynamodb.delete_table, TableName=name))
        _delete(lambda: kinesis.delete_stream(StreamName=STREAM, EnforceConsumerDeletion=True))
        waiting = {"Delay": 1, "MaxAttempts": READY_S}
        for name in KEYS:
            dynamodb.get_waiter("table_not_exists").wait(TableName=name, WaiterConfig=waiting)
        kinesis.get_waiter("stream_not_exists").wait(StreamName=STREAM, WaiterConfig=waiting)
    report("deleted: the mapping, function, logs, role, queue, tables and stream")


def call_function(settings: ServerlessSettings, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Call the function with records of an event; returns its answer.

    Raises:
        ServiceUnavailableError: the function failed; the text has the end of its log.
    """
    payload = json.dumps({"Records": records}).encode()
    answer = make_client(settings, "lambda").invoke(FunctionName=FUNCTION, Payload=payload, LogType="Tail")
    content: dict[str, Any] = json.loads(answer["Payload"].read() or b"null") or {}
    if "FunctionError" in answer:
        log = base64.b64decode(answer.get("LogResult", "")).decode("utf-8", "replace")
        raise ServiceUnavailableError(f"The function {FUNCTION} failed: {content.get('errorMessage')}\n{log}".rstrip())
    return content


def make_package() -> bytes:
    """The zip of the function. The same code makes the same bytes, so that an unchanged function is not updated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as package:
        # Stored: another version of zlib would compress to other bytes.
        entry = zipfile.ZipInfo(SOURCE.name, date_time=(1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o644 << 16
        package.writestr(entry, SOURCE.read_bytes())
    return file.getvalue()


def make_variables(settings: ServerlessSettings) -> dict[str, str]:
    """The function's environment. Emulators add AWS_ENDPOINT_URL, the address inside their container."""
    return {
        "PARTIAL_BATCH": "true" if settings.serverless_emulator in _PARTIAL_BATCH else "false",
        "TABLE_LATEST": LATEST,
        "TABLE_HISTORY": HISTORY,
        "TABLE_REJECTS": REJECTS,
    }


def make_policy(stream: str, tables: list[str], queue: str, log_group: str) -> dict[str, Any]:
    """The rights of the function, from the ARNs of what it uses.

    https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-create.html has the rights of the mapping.
    """
    reading = ("DescribeStream", "DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards")
    statements = {
        stream: [f"kinesis:{action}" for action in reading],
        **{table: ["dynamodb:PutItem"] for table in tables},
        queue: ["sqs:SendMessage"],
        f"{log_group}:*": ["logs:CreateLogStream", "logs:PutLogEvents"],
    }
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": arn} for arn, actions in statements.items()
        ],
    }  # fmt: skip


def _refuse_aws(settings: ServerlessSettings) -> None:
    if settings.serverless_endpoint is None:
        raise ConfigurationError(f"AWS_EMULATOR=none is AWS itself. {TERRAFORM}")


def _check_emulator(settings: ServerlessSettings) -> None:
    """MiniStack skips the records that a function reports, which it does for LocalStack."""
    try:
        answer = make_local_session().get(f"{settings.serverless_endpoint}/_ministack/health", timeout=HEALTH_S)
    except requests.RequestException:
        return  # the first call explains it
    if settings.serverless_emulator == "localstack" and answer.ok:
        raise ConfigurationError(
            f"AWS_EMULATOR=localstack, but MiniStack answers at {settings.serverless_endpoint}. Set "
            "AWS_EMULATOR=ministack, or stop MiniStack and start LocalStack."
        )


def _deploy_stream(settings: ServerlessSettings, report: Report) -> str:
    kinesis = make_client(settings, "kinesis")
    with _report_creation(f"stream {STREAM}", "ResourceInUseException", report):
        kinesis.create_stream(StreamName=STREAM, ShardCount=SHARDS)
    kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1, "MaxAttempts": READY_S})
    arn: str = kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamARN"]
    return arn


def _deploy_table(settings: ServerlessSettings, name: str, keys: tuple[str, ...], report: Report) -> str:
    dynamodb = make_client(settings, "dynamodb")
    schema = [{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)]
    with _report_creation(f"table {name}", "ResourceInUseException", report):
        dynamodb.create_table(
            TableName=name, KeySchema=schema, BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        )  # fmt: skip
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": READY_S})
    table = dynamodb.describe_table(TableName=name)["Table"]
    if table["KeySchema"] != schema:
        # DynamoDB would refuse each item, so that all records would end up among the rejects.
        found = ", ".join(key["AttributeName"] for key in table["KeySchema"])
        raise ConfigurationError(
            f"The table {name} has the key ({found}), and ({', '.join(keys)}) is needed. Delete the table, or run "
            "make serverless-destroy, then deploy again."
        )
    ttl = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    if name == HISTORY and ttl.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        specification = {"Enabled": True, "AttributeName": TTL_ATTRIBUTE}
        dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification=specification)
    arn: str = table["TableArn"]
    return arn


def _deploy_queue(settings: ServerlessSettings, report: Report) -> str:
    sqs = make_client(settings, "sqs")
    try:
        url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
        report(f"unchanged: queue {QUEUE}")
    except sqs.exceptions.QueueDoesNotExist:
        attributes = {"MessageRetentionPeriod": str(14 * DAY_S)}
        url = sqs.create_queue(QueueName=QUEUE, Attributes=attributes)["QueueUrl"]
        report(f"created: queue {QUEUE}")
    arn: str = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return arn


def _deploy_log_group(settings: ServerlessSettings, report: Report) -> str:
    logs = make_client(settings, "logs")
    with _report_creation(f"log group {LOG_GROUP}", "ResourceAlreadyExistsException", report):
        logs.create_log_group(logGroupName=LOG_GROUP)
    logs.put_retention_policy(logGroupName=LOG_GROUP, retentionInDays=14)
    (group,) = [
        group
        for group in logs.describe_log_groups(logGroupNamePrefix=LOG_GROUP)["logGroups"]
        if group["logGroupName"] == LOG_GROUP
    ]
    arn: str = group["arn"]
    return arn.removesuffix(":*")


def _deploy_role(settings: ServerlessSettings, policy: dict[str, Any], report: Report) -> str:
    iam = make_client(settings, "iam")
    with _report_creation(f"role {ROLE}", "EntityAlreadyExists", report):
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(_TRUST))
    iam.put_role_policy(RoleName=ROLE, PolicyName=ROLE, PolicyDocument=json.dumps(policy))
    arn: str = iam.get_role(RoleName=ROLE)["Role"]["Arn"]
    return arn


def _deploy_function(settings: ServerlessSettings, role: str, report: Report) -> None:
    client = make_client(settings, "lambda")
    package = make_package()
    wanted = _CONFIGURATION | {"Role": role, "Environment": {"Variables": make_variables(settings)}}
    waiting = {"Delay": 1, "MaxAttempts": READY_S}
    try:
        present = client.get_function_configuration(FunctionName=FUNCTION)
    except client.exceptions.ResourceNotFoundException:
        client.create_function(FunctionName=FUNCTION, Code={"ZipFile": package}, **wanted)
        report(f"created: function {FUNCTION}")
    else:
        has_changed = False
        if present["CodeSha256"] != base64.b64encode(hashlib.sha256(package).digest()).decode():
            client.update_function_code(FunctionName=FUNCTION, ZipFile=package)
            client.get_waiter("function_updated_v2").wait(FunctionName=FUNCTION, WaiterConfig=waiting)
            has_changed = True
        if any(present.get(name) != value for name, value in wanted.items()):
            client.update_function_configuration(FunctionName=FUNCTION, **wanted)
            has_changed = True
        report(f"{'updated' if has_changed else 'unchanged'}: function {FUNCTION}")
    client.get_waiter("function_active_v2").wait(FunctionName=FUNCTION, WaiterConfig=waiting)
    client.get_waiter("function_updated_v2").wait(FunctionName=FUNCTION, WaiterConfig=waiting)


def _deploy_mapping(settings: ServerlessSettings, stream: str, queue: str, report: Report) -> None:
    client = make_client(settings, "lambda")
    wanted = MAPPING | {"DestinationConfig": {"OnFailure": {"Destination": queue}}}
    mappings = _list_mappings(client, stream)
    if len(mappings) > 1 or any(mapping.get("StartingPosition") != START_AT for mapping in mappings):
        # A start cannot be changed. A second mapping would deliver everything twice.
        for mapping in mappings:
            client.delete_event_source_mapping(UUID=mapping["UUID"])
        _wait_until(lambda: not _list_mappings(client, stream), "the old mapping is deleted")
        mappings = []
    if not mappings:
        uuid = client.create_event_source_mapping(
            FunctionName=FUNCTION, EventSourceArn=stream, StartingPosition=START_AT, **wanted
        )["UUID"]
        report(f"created: mapping of {STREAM} to {FUNCTION}")
    else:
        (kept,) = mappings
        uuid = kept["UUID"]
        differs = any(kept.get(name) != value for name, value in wanted.items()) or kept["State"] != "Enabled"
        if differs:
            client.update_event_source_mapping(UUID=uuid, FunctionName=FUNCTION, Enabled=True, **wanted)
        report(f"{'updated' if differs else 'unchanged'}: mapping of {STREAM} to {FUNCTION}")
    _wait_until(lambda: client.get_event_source_mapping(UUID=uuid)["State"] == "Enabled", "the mapping is enabled")


def _list_mappings(client: Any, stream: str | None = None) -> list[dict[str, Any]]:
    """The mappings of the function: of one stream, or all."""
    given = {} if stream is None else {"EventSourceArn": stream}
    pages = client.get_paginator("list_event_source_mappings").paginate(FunctionName=FUNCTION, **given)
    try:
        return [mapping for page in pages for mapping in page["EventSourceMappings"]]
    except client.exceptions.ResourceNotFoundException:
        return []


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    """boto3 has no waiter for mappings."""
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(f"Waited {READY_S} s until {what}, in vain. Look into the emulator's log.")
        time.sleep(POLL_S)


@contextmanager
def _report_creation(name: str, exists: str, report: Report) -> Iterator[None]:
    """Report whether a resource is created, or exists already.

    Args:
        exists: the code of the error that says so.
    """
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != exists:
            raise
        report(f"unchanged: {name}")
    else:
        report(f"created: {name}")


def _delete(call: Callable[[], object]) -> None:
    try:
        call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if not any(part in code for part in ("NotFound", "NoSuchEntity", "NonExistent", "DoesNotExist")):
            raise
