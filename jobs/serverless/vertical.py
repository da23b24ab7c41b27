"""The declaration of the serverless vertical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from jobs.settings import LOOPBACK, Name, Port, Settings, Url
from jobs.vertical import Vertical

STREAM = "weather_stream"
FUNCTION = "kinesis_to_dynamo"
LATEST, HISTORY, REJECTS = "dataflow_mongo", "dataflow_history", "dataflow_rejects"
QUEUE = "dataflow-failed"  # what the mapping has given up
ROLE = FUNCTION
LOG_GROUP = f"/aws/lambda/{FUNCTION}"

# What to do when the emulator does not answer.
START = (
    "Start it: docker compose --profile serverless up -d --wait (Docker), or make local-up VERTICAL=serverless "
    "(without Docker)."
)


class ServerlessSettings(Settings):
    """The settings of the serverless vertical."""

    second_names: ClassVar[Mapping[str, str]] = {
        "serverless_emulator": "aws_emulator",
        "serverless_endpoint_url": "aws_endpoint_url",
        "serverless_region": "aws_default_region",
    }

    # none: AWS itself, with the login of this machine; infra/terraform/aws has set it up.
    serverless_emulator: Literal["ministack", "localstack", "none"] = "ministack"
    serverless_port: Port = 4566
    serverless_endpoint_url: Url = ""
    serverless_region: Name = "us-east-1"

    @property
    def serverless_endpoint(self) -> str | None:
        """The URL of the emulator; None for AWS."""
        if self.serverless_emulator == "none":
            return None
        return self.serverless_endpoint_url or f"http://{LOOPBACK}:{self.serverless_port}"


VERTICAL = Vertical(
    name="serverless",
    settings=ServerlessSettings,
    ledger="jobs.serverless.ledger:take_ledger",
    services=("aws",),
)
