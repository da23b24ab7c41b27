"""The Lambda function kinesis_to_dynamo: puts the records of weather_stream into DynamoDB.

A record is JSON: {"ville": "Dakar", "pays": "Sénégal", "aeroport": "DSS", "data": {…}, "timestamp": 1731400000}.
`timestamp` is the moment of the observation in seconds since 1970. `data` may have an `event_id`; without one, the id
is made from the content. infra/kinesis/weather_stream.schema.json has the schema.

- Every observation is one item of the history, however often it comes.
- The latest table has the newest observation of each city. Repeats and late records change nothing.
- A record that can never be stored goes to the rejects, with its reason, and does not block its shard.
- Everything else (a throttled table, a lost connection, no time left) fails the record: it comes again.

So the result is the same whatever repeats the batch. Where a mapping honours partial responses
(PARTIAL_BATCH=true), the function names the first record that failed. Elsewhere it raises an error, because such a
mapping would skip the failed records.

Environment variables: TABLE_LATEST (default: dataflow_mongo), TABLE_HISTORY, TABLE_REJECTS, PARTIAL_BATCH. Without
TABLE_HISTORY there is no history, and without TABLE_REJECTS a reject is only logged.

This file is the whole deployment package. It needs boto3 only, which Lambda's runtime has.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from enum import StrEnum
from typing import Any, NoReturn

import boto3
from boto3.dynamodb.types import DYNAMODB_CONTEXT
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# DynamoDB takes items of 400 KB. The same bytes as attributes, and the other attributes, need room.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
MAX_RECORD_BYTES = 300_000
MAX_DEPTH = 32  # lists and objects inside each other, which is DynamoDB's limit
MAX_TEXT = 200  # characters
SEQUENCE_DIGITS = 56  # of Kinesis; a number of DynamoDB has 38
FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
# An observation from the future would stay the latest. Clocks differ by less than this.
AHEAD = timedelta(days=1)
KEPT = timedelta(days=30)  # after arrival
RESERVE_MS = 3_000  # to return before Lambda ends the function

KEY = "observed#event_id"  # the second part of the history's key
_INVALID_ITEM = "ValidationException"
_CONDITION_FAILED = "ConditionalCheckFailedException"


class Reason(StrEnum):
    """Why a record is among the rejects."""

    INVALID_BASE64 = "invalid_base64"
    TOO_LARGE = "too_large"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"  # also NaN and Infinity
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TEXT = "invalid_text"
    INVALID_NUMBER = "invalid_number"  # DynamoDB has 38 digits, and exponents from −130 to 125
    INVALID_TIMESTAMP = "invalid_timestamp"
    REFUSED = "refused"  # by DynamoDB
    UNEXPECTED = "unexpected"  # a fault of this module


class RejectedError(Exception):
    """A record can never be stored."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail[:MAX_TEXT])
        self.reason = reason


class BatchFailedError(Exception):
    """A record could not be stored yet, so that the whole batch has to come again."""


class Outcome(StrEnum):
    """What became of a record."""

    STORED = "stored"
    LATE = "late"  # stored, but a newer observation of the city was there
    REPEATED = "repeated"
    REJECTED = "rejected"


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Store the records of a Kinesis event in order, until one fails.

    https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html describes the event.

    Returns:
        `batchItemFailures`, see https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html

    Raises:
        BatchFailedError: a record failed, and PARTIAL_BATCH is not true.
    """
    tables = Tables(os.environ)
    for number, record in enumerate(event["Records"]):
        sequence = record["kinesis"]["sequenceNumber"]
        try:
            # Always try the first record: with a timeout below the reserve, the batch would never advance.
            if number and context.get_remaining_time_in_millis() < RESERVE_MS:
                raise TimeoutError("no time is left")
            outcome, details = store(record, tables)
        except (BotoCoreError, ClientError, TimeoutError) as error:
            _log(record, "failed", error=f"{type(error).__name__}: {error}"[:MAX_TEXT])
            return _fail(sequence, error)
        _log(record, outcome.value, **details)
    return {"batchItemFailures": []}


def _fail(sequence: str, error: Exception) -> dict[str, Any]:
    if os.environ.get("PARTIAL_BATCH") == "true":
        return {"batchItemFailures": [{"itemIdentifier": sequence}]}
    raise BatchFailedError(f"Record {sequence} failed, so the whole batch must be retried: {error}") from error


def _log(record: dict[str, Any], outcome: str, **details: str) -> None:
    line = {"outcome": outcome, "sequence": record["kinesis"]["sequenceNumber"], **details}
    print(json.dumps(line, ensure_ascii=False), flush=True)  # Lambda sends printed lines to CloudWatch Logs


class Tables:
    """The tables `latest`, `history` and `rejects`.

    Args:
        variables: TABLE_LATEST, TABLE_HISTORY and TABLE_REJECTS are their names. AWS_ENDPOINT_URL is the address of an
            emulator; boto3 reads it.
    """

    # One for each execution environment: making it takes longer than a record.
    _resource: Any = None

    def __init__(self, variables: Mapping[str, str]) -> None:
        if Tables._resource is None:
            # boto3 retries for seconds; Lambda retries the batch after that.
            config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 4})
            Tables._resource = boto3.resource("dynamodb", config=config)
        self.latest = self._resource.Table(variables.get("TABLE_LATEST") or "dataflow_mongo")
        history, rejects = variables.get("TABLE_HISTORY"), variables.get("TABLE_REJECTS")
        self.history = self._resource.Table(history) if history else None
        self.rejects = self._resource.Table(rejects) if rejects else None


def store(record: dict[str, Any], tables: Tables) -> tuple[Outcome, dict[str, str]]:
    """Store a record, or put it among the rejects.

    Returns:
        The outcome, and details for the log.

    Raises:
        BotoCoreError, ClientError: DynamoDB does not answer, throttles, or denies access.
    """
    try:
        item = make_item(record)
        is_new = tables.history is None or _put_history(tables.history, item)
    except RejectedError as error:
        if tables.rejects is not None:
            for part in make_rejects(record, error):
                tables.rejects.put_item(Item=part)
        return Outcome.REJECTED, {"reason": error.reason.value, "detail": str(error)}
    # An error here is not the item's fault, because the history has it.
    is_latest = _put_latest(tables.latest, item)
    outcome = Outcome.REPEATED if not is_new else Outcome.STORED if is_latest else Outcome.LATE
    return outcome, {"ville": item["ville"], "event_id": item["event_id"]}


def _put_history(table: Any, item: dict[str, Any]) -> bool:
    """Put an item unless its key exists; returns whether it did.

    Raises:
        RejectedError: DynamoDB never accepts this item.
    """
    try:
        return _put(table, item, "attribute_not_exists(ville)")
    except ClientError as error:
        if error.response["Error"]["Code"] != _INVALID_ITEM:
            raise
        raise RejectedError(Reason.REFUSED, error.response["Error"].get("Message", "")) from error


def _put_latest(table: Any, item: dict[str, Any]) -> bool:
    """Put an item unless the city has a newer one; returns whether it did.

    The key starts with the time of the observation. The event_id decides between two of the same time.
    """
    return _put(
        table, item, "attribute_not_exists(#key) OR #key < :key",
        ExpressionAttributeNames={"#key": KEY}, ExpressionAttributeValues={":key": item[KEY]},
    )  # fmt: skip


def _put(table: Any, item: dict[str, Any], condition: str, **names: Any) -> bool:
    """Put an item if the condition holds; returns whether it did."""
    try:
        table.put_item(Item=item, ConditionExpression=condition, **names)
    except ClientError as error:
        if error.response["Error"]["Code"] == _CONDITION_FAILED:
            return False
        raise
    return True


def make_item(record: dict[str, Any]) -> dict[str, Any]:
    """The item of a record, for both tables.

    Raises:
        RejectedError: the record is not an observation.
    """
    try:
        return _make_item(record)
    except RejectedError:
        raise
    except Exception as error:
        # Nothing here depends on time or on other systems, so every retry would fail, too.
        raise RejectedError(Reason.UNEXPECTED, f"{type(error).__name__}: {error}") from error


def _make_item(record: dict[str, Any]) -> dict[str, Any]:
    content = parse(decode(record))
    city, data = content["ville"], content["data"]
    arrived = _read_arrival(record)
    moment = _read_moment(content["timestamp"], arrived)
    observed = _format(moment)
    # The same letters in two forms of Unicode are one city.
    key = unicodedata.normalize("NFC", city).strip()
    event_id = data.get("event_id") or _make_event_id(key, observed, data)
    return {
        "ville": key,
        KEY: f"{observed}#{event_id}",
        "event_id": event_id,
        "observed": observed,
        "pays": content.get("pays"),
        "aeroport": content.get("aeroport"),
        "ville_source": city,
        "data": data,
        "timestamp": content["timestamp"],
        "sequence": pad(record["kinesis"]["sequenceNumber"]),
        "arrived": _format(arrived),
        "expires": int((arrived + KEPT).timestamp()),
    }


def decode(record: dict[str, Any]) -> bytes:
    """The bytes that the producer put."""
    try:
        raw = base64.b64decode(record["kinesis"]["data"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise RejectedError(Reason.INVALID_BASE64, str(error)) from error
    if len(raw) > MAX_RECORD_BYTES:
        raise RejectedError(Reason.TOO_LARGE, f"{len(raw)} bytes, and {MAX_RECORD_BYTES} are allowed")
    return raw


def parse(raw: bytes) -> dict[str, Any]:
    """The content of a record; its numbers are what DynamoDB can hold.

    Raises:
        RejectedError: with the first fault.
    """
    try:
        content = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_read_object, parse_float=_read_number, parse_int=_read_number,
            parse_constant=_refuse_constant,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise RejectedError(Reason.INVALID_UTF8, str(error)) from error
    except ValueError as error:
        raise RejectedError(Reason.INVALID_JSON, str(error)) from error
    except RecursionError as error:
        raise RejectedError(Reason.TOO_DEEP, str(error)) from error
    if not isinstance(content, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, f"it is of type {type(content).__name__}")
    for name, kind in (("ville", str), ("data", dict), ("timestamp", Decimal)):
        if content.get(name) is None:
            raise RejectedError(Reason.MISSING_FIELD, f"{name} is missing")
        _check_type(name, content[name], kind)
    for name in ("pays", "aeroport"):
        if content.get(name) is not None:
            _check_type(name, content[name], str)
    event_id = content["data"].get("event_id")
    if event_id is not None:
        _check_type("event_id", event_id, str)
    for name, text in (("ville", content["ville"]), ("event_id", event_id)):
        _check_key(name, text)
    _check_depth(content["data"])
    _check_texts(content)
    return content


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise RejectedError(Reason.DUPLICATE_KEY, "an object has a key twice")
    return content


def _read_number(text: str) -> Decimal:
    try:
        number: Decimal = DYNAMODB_CONTEXT.create_decimal(text)
    except DecimalException as error:
        raise RejectedError(Reason.INVALID_NUMBER, f"{text[:40]} is not a number that DynamoDB can hold") from error
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise RejectedError(Reason.INVALID_JSON, f"{text} is not JSON")


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise RejectedError(Reason.WRONG_TYPE, f"{name} is of type {type(value).__name__}")


def _check_key(name: str, text: str | None) -> None:
    if text is not None and not (text.strip() and text.isprintable() and len(text) <= MAX_TEXT):
        raise RejectedError(Reason.INVALID_TEXT, f"{name} is empty, unprintable, or has over {MAX_TEXT} characters")


def _check_depth(value: Any) -> None:
    """boto3 would fail on deep content before it asks DynamoDB."""
    level = [value]
    for _ in range(MAX_DEPTH):
        children = [child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)]
        level = [child for child in children if isinstance(child, (dict, list))]
        if not level:
            return
    raise RejectedError(Reason.TOO_DEEP, f"lists and objects are nested over {MAX_DEPTH} deep")


def _check_texts(content: dict[str, Any]) -> None:
    """A lone surrogate cannot be sent."""
    stored = {name: content.get(name) for name in ("ville", "pays", "aeroport", "data")}
    try:
        json.dumps(stored, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise RejectedError(Reason.INVALID_TEXT, str(error)) from error


def _read_arrival(record: dict[str, Any]) -> datetime:
    """When Kinesis got the record. Retries of the record have the same arrival."""
    return datetime.fromtimestamp(record["kinesis"]["approximateArrivalTimestamp"], UTC)


def _read_moment(timestamp: Decimal, arrived: datetime) -> datetime:
    """The time of an observation."""
    seconds = float(timestamp)
    latest = min(LAST, arrived + AHEAD)
    if not FIRST.timestamp() <= seconds < latest.timestamp():
        raise RejectedError(
            Reason.INVALID_TIMESTAMP, f"{timestamp} is not between 1970 and one day after the record's arrival"
        )
    return FIRST + timedelta(microseconds=int((timestamp * 1_000_000).to_integral_value()))


def _format(moment: datetime) -> str:
    """A time as a text of fixed length, so that texts sort like times."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _make_event_id(city: str, observed: str, data: dict[str, Any]) -> str:
    """The same content has the same id."""
    text = json.dumps([city, observed, data], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def pad(sequence: str) -> str:
    """A sequence number with leading zeros, so that texts sort like numbers."""
    return sequence.zfill(SEQUENCE_DIGITS)


def make_rejects(record: dict[str, Any], error: RejectedError) -> Iterator[dict[str, Any]]:
    """The items of a reject: one for each MAX_RECORD_BYTES of its content, or one if it has none."""
    kinesis = record["kinesis"]
    try:
        raw, is_decoded = base64.b64decode(kinesis["data"], validate=True), True
    except (binascii.Error, ValueError, TypeError):
        raw, is_decoded = str(kinesis["data"]).encode("utf-8", "backslashreplace"), False
    starts = range(0, max(len(raw), 1), MAX_RECORD_BYTES)
    for number, start in enumerate(starts):
        yield {
            "shard": read_shard(record),
            "sequence#part": f"{pad(kinesis['sequenceNumber'])}#{number:04d}",
            "parts": len(starts),
            "reason": error.reason.value,
            "detail": str(error),
            "arrived": _format(_read_arrival(record)),
            "partition_key": str(kinesis.get("partitionKey", "")),
            "is_decoded": is_decoded,
            "raw": raw[start : start + MAX_RECORD_BYTES],
        }


def read_shard(record: dict[str, Any]) -> str:
    """The id of a record's shard."""
    return str(record.get("eventID", "")).partition(":")[0] or "unknown"
