"""Clients of AWS or of its emulator, and what to do about their errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore import exceptions
from botocore.config import Config

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.serverless.vertical import START, ServerlessSettings

# https://docs.localstack.cloud/aws/getting-started/auth-token/
LOCALSTACK = (
    "Images of LocalStack newer than 4.14.0 need LOCALSTACK_AUTH_TOKEN and end with exit code 55 without it: use "
    "localstack/localstack:4.14.0."
)
LOGIN = "Sign in to AWS: run `aws sso login` or `aws configure`, and name the profile in AWS_PROFILE."
TERRAFORM = "infra/terraform/aws deploys to AWS: terraform -chdir=infra/terraform/aws apply"

_DENIED = (
    "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId",
    "InvalidSignatureException", "UnrecognizedClientException",
)  # fmt: skip
_MISSING = ("ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


def make_client(settings: ServerlessSettings, service: str) -> Any:
    """A client of one of AWS's services."""
    return _make_session(settings.serverless_region, settings.serverless_endpoint).client(service, **_locate(settings))


def make_table(settings: ServerlessSettings, name: str) -> Any:
    """A table of DynamoDB."""
    session = _make_session(settings.serverless_region, settings.serverless_endpoint)
    return session.resource("dynamodb", **_locate(settings)).Table(name)


@cache
def _make_session(region: str, endpoint: str | None) -> boto3.Session:
    """One session for all clients: each reads files of several MB."""
    # An emulator has nothing to do with AWS_PROFILE.
    variables = {"profile": (None, None, None, None)} if endpoint else {}
    return boto3.Session(botocore_session=botocore.session.Session(variables), region_name=region)


def _locate(settings: ServerlessSettings) -> dict[str, Any]:
    retries = {"mode": "standard", "total_max_attempts": 5}
    if settings.serverless_endpoint is None:
        # AWS_ENDPOINT_URL in the shell is the address of an emulator.
        return {"config": Config(retries=retries, ignore_configured_endpoint_urls=True)}
    return {
        "endpoint_url": settings.serverless_endpoint,
        # Emulators accept any login. The user's own is not sent.
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "config": Config(retries=retries, connect_timeout=3, proxies={}),
    }


@contextmanager
def translate_errors(settings: ServerlessSettings, doing: str) -> Iterator[None]:
    """Raise AWS's errors as ours, with the remedy.

    Args:
        doing: what failed, for the text: "reading the stream".

    Raises:
        ServiceUnavailableError: the emulator or AWS does not answer, or throttles.
        ConfigurationError: there is no valid login, a right is missing, or nothing is deployed.
    """
    place = settings.serverless_endpoint or f"AWS ({settings.serverless_region})"
    try:
        yield
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        start = LOCALSTACK if settings.serverless_emulator == "localstack" else START
        remedy = start if settings.serverless_endpoint else "Check the network."
        raise ServiceUnavailableError(f"{doing}: {place} does not answer. {remedy}") from error
    except exceptions.BotoCoreError as error:
        # NoCredentialsError, ProfileNotFound, errors of SSO: they have no common class.
        raise ConfigurationError(f"{doing}: {error}. {LOGIN}") from error
    except exceptions.ClientError as error:
        code, text = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _DENIED:
            raise ConfigurationError(f"{doing}: {place} refuses it: {code}: {text} {LOGIN}") from error
        if code in _MISSING:
            remedy = "Run make serverless-deploy" if settings.serverless_endpoint else TERRAFORM
            raise ConfigurationError(f"{doing}: {place}: {text} {remedy}.") from error
        raise ServiceUnavailableError(f"{doing}: {place} answers {code}: {text}") from error
