"""Puts records into a stream of Kinesis, each until it is acknowledged or the time is over."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as NoConnectionError
from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from kinesis_records import Record

log = logging.getLogger("put_weather")

# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html; a stream may allow larger records.
BATCH_RECORDS = 500
BATCH_BYTES = 5 * 2**20
RECORD_BYTES = 2**20

START = (
    "Start it: docker compose --profile serverless up -d --wait (Docker), or make local-up VERTICAL=serverless "
    "(without Docker). Or correct --endpoint-url."
)
_TO_RETRY = ("LimitExceededException", "ProvisionedThroughputExceededException", "RequestTimeout")


class PutError(Exception):
    """Records were not put. The text says how many, why, and what to do."""


class _NotYetError(Exception):
    """Something was not put, and may be on the next try."""


class Sender:
    """Puts records, and counts those that Kinesis acknowledged by their kind.

    A lost answer makes the records come twice; their event ids are the same.

    Attributes:
        put_by_kind: acknowledged records.
        too_large: records that were dropped.
        waiting: records of the last `put` that are not acknowledged.

    Args:
        endpoint_url: of an emulator; None for AWS.
        timeout_s: seconds to keep trying one batch.
    """

    def __init__(self, stream: str, endpoint_url: str | None, region: str, timeout_s: float) -> None:
        self.put_by_kind: Counter[str] = Counter()
        self.too_large = self.waiting = 0
        self._stream, self._endpoint_url, self._timeout_s = stream, endpoint_url, timeout_s
        # An emulator gets neither the login of AWS nor requests through a proxy.
        login = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} if endpoint_url else {}
        config = Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"total_max_attempts": 1},  # this class tries again
            proxies={} if endpoint_url else None,
            ignore_configured_endpoint_urls=True,
        )
        self._client: Any = boto3.client(
            "kinesis", endpoint_url=endpoint_url, region_name=region, config=config, **login
        )

    @property
    def count(self) -> int:
        return self.put_by_kind.total()

    def put(self, records: Iterable[Record]) -> None:
        """Put records in batches.

        Raises:
            PutError: not all were put.
        """
        batches = list(cut_batches(self._drop_too_large(records)))
        self.waiting = sum(map(len, batches))
        for batch in batches:
            self._put_batch(batch)

    def _drop_too_large(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if record.size > RECORD_BYTES:
                self.too_large += 1
                log.warning(
                    "dropped a record of %s: %d bytes, and Kinesis takes %d", record.key, record.size, RECORD_BYTES
                )
            else:
                yield record

    def _put_batch(self, batch: list[Record]) -> None:
        left = batch
        tries = Retrying(
            retry=retry_if_exception_type(_NotYetError),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_before_delay(self._timeout_s),
            reraise=True,
        )
        try:
            for attempt in tries:
                with attempt:
                    left, reason = self._try(left)
                    if left:
                        raise _NotYetError(reason)
        except _NotYetError as error:
            raise PutError(self.describe(f"within {self._timeout_s:g} s: {error}")) from error

    def _try(self, batch: list[Record]) -> tuple[list[Record], str]:
        """Returns the records that were not put, and why not."""
        entries = [{"Data": record.value, "PartitionKey": record.key} for record in batch]
        try:
            answers = self._client.put_records(StreamName=self._stream, Records=entries)["Records"]
        except (HTTPClientError, NoConnectionError) as error:
            return batch, f"{error}. {START if self._endpoint_url else 'Check the network and the region.'}"
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code in _TO_RETRY or "Throttl" in code or status >= 500:
                return batch, f"{error}. Send less (--rate), or give the stream more shards."
            raise PutError(self.describe(f"{error}. {self._advise(code)}")) from error
        except NoCredentialsError as error:
            text = f"{error}. Log in (aws configure, aws sso login), or use an emulator: AWS_EMULATOR=ministack."
            raise PutError(self.describe(text)) from error
        except BotoCoreError as error:
            raise PutError(self.describe(str(error))) from error
        left = []
        codes: Counter[str] = Counter()
        for record, answer in zip(batch, answers, strict=True):
            if code := answer.get("ErrorCode"):
                left.append(record)
                codes[code] += 1
            else:
                self.put_by_kind[record.kind] += 1
                self.waiting -= 1
        reason = ", ".join(f"{code} {count}" for code, count in codes.items())
        return left, f"{reason}. Send less (--rate), or give the stream more shards."

    def _advise(self, code: str) -> str:
        if code == "ResourceNotFoundException":
            return (
                "Create the stream: make local-up VERTICAL=serverless, or docker compose --profile serverless up -d "
                "--wait; at AWS: terraform apply in infra/terraform/aws."
            )
        return "Check the login (aws sts get-caller-identity), its rights (kinesis:PutRecords) and the region."

    def describe(self, text: str) -> str:
        """How many records of the last `put` are not acknowledged, and the text."""
        where = self._endpoint_url or "AWS"
        return f"{self.waiting} records were not put into {self._stream} at {where} {text}"


def cut_batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in their order, in batches that Kinesis takes."""
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (len(batch) == BATCH_RECORDS or size + record.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record.size
    if batch:
        yield batch
