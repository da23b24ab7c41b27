"""Terraform files for AWS, the function, the producer and the vertical agree. Nothing here connects to AWS."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess

import pytest
from botocore.session import Session

from jobs.serverless import lambda_consumer
from jobs.serverless.vertical import FUNCTION, HISTORY, LATEST, REJECTS, STREAM, ServerlessSettings
from jobs.settings import ROOT

TERRAFORM = ROOT / "infra" / "terraform" / "aws"
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(TERRAFORM.glob("*.tf"))}
EVERYTHING = "\n".join(FILES.values())
VARIABLES = re.findall(r'(?m)^variable "(\w+)"', EVERYTHING)
TABLES = {"latest": LATEST, "history": HISTORY, "rejects": REJECTS}
PRODUCER = ROOT / "producer" / "serverless"
CONSUMER = ROOT / "jobs" / "serverless" / "lambda_consumer.py"


def block(kind: str, *names: str) -> str:
    """The text of a top-level block."""
    head = " ".join([kind, *(f'"{name}"' for name in names)])
    match = re.search(rf"(?ms)^{re.escape(head)} \{{\n(.*?)^\}}$", EVERYTHING)
    assert match, f"there is no {head}"
    return match[1]


def resource(kind: str, name: str) -> str:
    return block("resource", kind, name)


def argument(text: str, name: str) -> str:
    match = re.search(rf'(?m)^\s+{name}\s*= ("[^"\n]*"|[^#\n]+?)\s*(?:#.*)?$', text)
    assert match, f"there is no {name}"
    return match[1]


LOCALS = dict(re.findall(r'(?m)^  (\w+)\s*= "([^"$]+)"$', re.search(r"(?ms)^locals \{\n(.*?)^\}$", EVERYTHING)[1]))  # type: ignore[index]


def value(text: str, name: str) -> str:
    """The text of an argument, with the locals in their places."""
    raw = argument(text, name).strip('"')
    return re.sub(r"\$\{local\.(\w+)\}|^local\.(\w+)$", lambda match: LOCALS[match[1] or match[2]], raw)


def statements(policy: str) -> dict[str, tuple[set[str], str]]:
    """The statements of a policy by their Sid: actions and resources."""
    found = {}
    for part in re.split(r"\bSid\s+= ", policy)[1:]:
        actions = re.search(r"(?s)\bAction\s+= \[(.*?)\]", part)
        resources = re.search(r"(?s)\bResource\s+= \[(.*?)\]\n", part)
        assert actions
        assert resources
        found[part.partition("\n")[0].strip('"')] = (set(re.findall(r'"([\w:]+)"', actions[1])), resources[1])
    return found


def list_calls(service: str, *modules: str) -> set[str]:
    """The actions of a service that the code calls."""
    names = Session().get_service_model(service).operation_names
    operations = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): name for name in names}
    calls = {
        node.func.attr
        for module in modules
        for node in ast.walk(ast.parse(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return {f"{service}:{operations[name]}" for name in calls & set(operations)}


def list_clients(*modules: str) -> set[str]:
    """The services of which the code makes clients."""
    return {
        node.args[0].value
        for module in modules
        for node in ast.walk(ast.parse(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("boto3.client", "boto3.resource")
        and isinstance(node.args[0], ast.Constant)
    }


def test_the_names_are_those_of_the_vertical() -> None:
    assert value(resource("aws_kinesis_stream", "weather"), "name") == STREAM
    assert value(resource("aws_lambda_function", "consumer"), "function_name") == FUNCTION
    for name, table in TABLES.items():
        assert value(resource("aws_dynamodb_table", name), "name") == table
    assert value(resource("aws_sqs_queue", "failed"), "name") == "dataflow-failed"
    assert value(resource("aws_cloudwatch_log_group", "function"), "name") == f"/aws/lambda/{FUNCTION}"
    assert argument(block("variable", "region"), "default").strip('"') == (
        ServerlessSettings(_env_file=None).serverless_region
    )


def test_the_tables_have_the_keys_of_the_items() -> None:
    keys = {"latest": ("ville", None), "history": ("ville", lambda_consumer.KEY), "rejects": ("shard", "sequence#part")}
    record = {
        "kinesis": {"data": "!", "sequenceNumber": "7", "approximateArrivalTimestamp": 1_731_400_000.5},
        "eventID": "shardId-0:7",
    }
    error = lambda_consumer.RejectedError(lambda_consumer.Reason.INVALID_BASE64, "")
    (reject,) = lambda_consumer.make_rejects(record, error)
    assert {"shard", "sequence#part"} <= set(reject)
    for name, (hash_key, range_key) in keys.items():
        text = resource("aws_dynamodb_table", name)
        assert value(text, "hash_key") == hash_key
        assert (value(text, "range_key") if "range_key" in text else None) == range_key
        described = re.findall(r'attribute \{\s+name = "(.*)"\s+type = "S"\s+\}', text)
        assert described == [key for key in (hash_key, range_key) if key]
        assert argument(text, "billing_mode") == '"PAY_PER_REQUEST"'
        assert argument(text, "deletion_protection_enabled") == "var.deletion_protection"
        for feature in ("point_in_time_recovery", "server_side_encryption"):
            assert re.search(rf"{feature} \{{\s+enabled = true\s+\}}", text)
        assert ("ttl {" in text) == (name == "history")
    assert argument(resource("aws_dynamodb_table", "history"), "attribute_name") == '"expires"'
    assert argument(block("variable", "deletion_protection"), "default") == "true"


def test_the_function_is_the_one_file_with_its_settings() -> None:
    text = resource("aws_lambda_function", "consumer")
    assert argument(text, "runtime") == '"python3.13"'
    assert argument(text, "architectures") == '["arm64"]'
    assert argument(text, "timeout") == "60"
    assert argument(text, "handler") == f'"{CONSUMER.stem}.{lambda_consumer.lambda_handler.__name__}"'
    consumer = re.search(r'consumer = "\$\{path\.module\}/(.*)"', EVERYTHING)
    assert consumer
    assert (TERRAFORM / consumer[1]).resolve() == CONSUMER
    variables = dict(re.findall(r"(?m)^      (\w+)\s+= (\S+)$", text))
    assert variables == {
        "PARTIAL_BATCH": '"true"',
        **{f"TABLE_{name.upper()}": f"aws_dynamodb_table.{name}.name" for name in TABLES},
    }
    read = set(re.findall(r'(?:variables|os\.environ)\.get\("(\w+)"', CONSUMER.read_text(encoding="utf-8")))
    assert read == set(variables)


def test_the_mapping_reads_partial_responses_and_gives_up_into_the_queue() -> None:
    text = resource("aws_lambda_event_source_mapping", "stream")
    expected = {
        "starting_position": '"TRIM_HORIZON"',
        "batch_size": "100",
        "maximum_batching_window_in_seconds": "1",
        "maximum_retry_attempts": "5",
        "maximum_record_age_in_seconds": "3600",
        "bisect_batch_on_function_error": "true",
        "function_response_types": '["ReportBatchItemFailures"]',
        "destination_arn": "aws_sqs_queue.failed.arn",
    }
    assert {name: argument(text, name) for name in expected} == expected
    assert argument(resource("aws_kinesis_stream", "weather"), "stream_mode") == '"ON_DEMAND"'
    assert argument(resource("aws_sqs_queue", "failed"), "sqs_managed_sse_enabled") == "true"


def test_the_function_may_do_what_it_and_its_mapping_do_and_nothing_else() -> None:
    policy = statements(resource("aws_iam_role_policy", "function"))
    code = CONSUMER.read_text(encoding="utf-8")
    assert list_clients(code) == {"dynamodb"}
    stored = ", ".join(f"aws_dynamodb_table.{name}.arn" for name in TABLES)
    assert policy == {
        "Read": (
            {
                f"kinesis:{action}"
                for action in (
                    "DescribeStream",
                    "DescribeStreamSummary",
                    "GetRecords",
                    "GetShardIterator",
                    "ListShards",
                )
            },
            "aws_kinesis_stream.weather.arn",
        ),
        "Store": (list_calls("dynamodb", code), stored),
        "Fail": ({"sqs:SendMessage"}, "aws_sqs_queue.failed.arn"),
        "Log": ({"logs:CreateLogStream", "logs:PutLogEvents"}, '"${aws_cloudwatch_log_group.function.arn}:*"'),
    }
    assert policy["Store"][0] == {"dynamodb:PutItem"}


def test_the_producer_may_put_records_and_nothing_else() -> None:
    code = [path.read_text(encoding="utf-8") for path in PRODUCER.glob("*.py")]
    assert list_clients(*code) == {"kinesis"}
    assert statements(resource("aws_iam_policy", "producer")) == {
        "Put": (list_calls("kinesis", *code), "aws_kinesis_stream.weather.arn")
    }
    assert list_calls("kinesis", *code) == {"kinesis:PutRecords"}


def test_no_policy_is_for_everything() -> None:
    assert not re.search(r'(Action|Resource)\s+= (\[?"[\w:]*\*")', EVERYTHING)
    policies = re.findall(r'resource "(aws_iam_\w*policy\w*)"', EVERYTHING)
    assert policies == ["aws_iam_role_policy", "aws_iam_policy", "aws_iam_role_policy_attachment"]
    assert "arn:aws:iam::aws:policy" not in EVERYTHING


def test_each_alarm_watches_what_is_declared_and_tells_the_address() -> None:
    metrics = {
        "late": ("AWS/Lambda", "IteratorAge", "aws_lambda_function.consumer.function_name"),
        "errors": ("AWS/Lambda", "Errors", "aws_lambda_function.consumer.function_name"),
        "failed": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "aws_sqs_queue.failed.name"),
    }
    assert set(re.findall(r'"aws_cloudwatch_metric_alarm" "(\w+)"', EVERYTHING)) == set(metrics)
    for name, (namespace, metric, dimension) in metrics.items():
        text = resource("aws_cloudwatch_metric_alarm", name)
        assert (value(text, "namespace"), value(text, "metric_name")) == (namespace, metric)
        assert dimension in argument(text, "dimensions")
        assert argument(text, "alarm_actions") == "aws_sns_topic.alarms[*].arn"
        assert argument(text, "treat_missing_data") == '"notBreaching"'
    budget = resource("aws_budgets_budget", "month")
    assert argument(budget, "count") == 'var.alarm_email == "" ? 0 : 1'
    assert budget.count("subscriber_email_addresses = [var.alarm_email]") == 2


def test_versions_are_pinned() -> None:
    providers = re.findall(r'source\s+= "hashicorp/(\w+)"\s+(?:#.*\s+)?version = "~> \d+\.\d+"', FILES["versions.tf"])
    assert providers == ["archive", "aws"]
    assert 'required_version = ">= 1.5"' in FILES["versions.tf"]


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_described_and_used(name: str) -> None:
    text = block("variable", name)
    assert len(argument(text, "description")) > 20
    assert re.search(rf"\bvar\.{name}\b", EVERYTHING.replace(f'variable "{name}" {{\n{text}}}', ""))
    if argument(text, "type") != "bool":
        assert "error_message" in text


@pytest.mark.parametrize("file", ["terraform.tfvars.example", "tests/plan.tftest.hcl"])
def test_variables_named_in_examples_exist(file: str) -> None:
    text = (TERRAFORM / file).read_text(encoding="utf-8")
    if file.endswith(".hcl"):
        named = {
            name
            for part in re.findall(r"(?ms)^  variables \{\n(.*?)^  \}", text)
            for name in re.findall(r"(?m)^    (\w+) +=", part)
        }
    else:
        named = set(re.findall(r"(?m)^(?:# )?(\w+) += ", text))
    assert named
    assert named <= set(VARIABLES)


def test_the_env_output_names_existing_settings() -> None:
    lines = dict(re.findall(r"(?m)^    ([A-Z_]+)=(.*)$", block("output", "env")))
    assert set(lines) <= {name.upper() for name in ServerlessSettings.second_names.values()}
    assert lines["AWS_EMULATOR"] == "none"


TOOL = next((tool for tool in ("terraform", "tofu") if shutil.which(tool)), None)


@pytest.mark.skipif(
    TOOL is None or not (TERRAFORM / ".terraform" / "providers").is_dir(), reason="`terraform init` was not run"
)
@pytest.mark.parametrize("command", ["validate", "test"])
def test_terraform_files_validate_and_plan(command: str) -> None:
    result = subprocess.run(
        [str(TOOL), command, "-no-color"],
        cwd=TERRAFORM,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"CHECKPOINT_DISABLE": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
