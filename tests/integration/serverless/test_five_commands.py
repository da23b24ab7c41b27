"""The five commands of the source, one by one, on an emulator with nothing but what they create.

docs/serverless.md shows them with their output: COMMANDS=<file> writes both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from infra.local.services.aws import PYTHON
from jobs.serverless.aws import make_client
from jobs.serverless.deploy import SOURCE, destroy
from jobs.serverless.tables import scan_items
from jobs.serverless.vertical import FUNCTION, LATEST, STREAM
from tests.testkit.wait import until

RECORD = (
    '{"ville": "Dakar", "pays": "Sénégal", "aeroport": "DSS", "data": {"temp": 30, "pm2_5": 12}, '
    '"timestamp": 1731400000}'
)
COMMANDS = (
    f"awslocal kinesis create-stream --stream-name {STREAM} --shard-count 1",
    f"awslocal dynamodb create-table --table-name {LATEST} "
    "--attribute-definitions AttributeName=ville,AttributeType=S --key-schema AttributeName=ville,KeyType=HASH "
    "--billing-mode PAY_PER_REQUEST",
    "zip lambda_consumer.zip lambda_consumer.py",
    f"awslocal lambda create-function --function-name {FUNCTION} --runtime python3.13 "
    "--handler lambda_consumer.lambda_handler --zip-file fileb://lambda_consumer.zip "
    "--role arn:aws:iam::000000000000:role/lambda-role",
    f"awslocal lambda create-event-source-mapping --function-name {FUNCTION} "
    f"--event-source arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM} --batch-size 1 --starting-position LATEST",
)
# Version 2 of the command line wants --cli-binary-format raw-in-base64-out, too.
PUT = f"awslocal kinesis put-record --stream-name {STREAM} --partition-key 1 --data '{RECORD}'"
LOGS = f"awslocal logs filter-log-events --log-group-name /aws/lambda/{FUNCTION} --query events[].message --output text"
SCAN = f"awslocal dynamodb scan --table-name {LATEST}"


def test_the_five_commands_work_one_by_one(emulator: Any, tmp_path: Path) -> None:
    destroy(emulator)
    shutil.copy(SOURCE, tmp_path)
    transcript: list[str] = []

    def run(command: str, *, is_shown: bool = True) -> str:
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
            env={
                "PATH": os.pathsep.join([str(PYTHON.parent), os.environ["PATH"]]),
                "HOME": str(tmp_path),
                "LANG": "C.UTF-8",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{emulator.serverless_port}",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_PAGER": "",
            },
        )  # fmt: skip
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        if is_shown:
            transcript.append(f"$ {command}\n{result.stdout}")
        return result.stdout

    for command in COMMANDS:
        if not (command.startswith("zip") and shutil.which("zip") is None):
            run(command)
        else:
            run(command.replace("zip", "python -m zipfile -c", 1))
    run(PUT)

    def is_stored() -> bool:
        # LATEST misses what is put before the emulator looks at the mapping for the first time. Repeats change nothing.
        make_client(emulator, "kinesis").put_record(StreamName=STREAM, PartitionKey="1", Data=RECORD.encode())
        return any(True for _ in scan_items(emulator, LATEST))

    until(is_stored, "the item is in the table", 60, lambda _: time.sleep(0.5))
    (item,) = json.loads(run(SCAN))["Items"]
    assert item["ville"] == {"S": "Dakar"}
    assert item["data"]["M"] == {"temp": {"N": "30"}, "pm2_5": {"N": "12"}}
    until(lambda: '"outcome": "stored"' in run(LOGS, is_shown=False), "the line is in the log", 60)
    run(LOGS)
    if target := os.environ.get("COMMANDS"):
        Path(target).write_text("\n".join(transcript))
