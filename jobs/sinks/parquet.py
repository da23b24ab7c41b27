"""Parquet objects whose names determine their content, so that a retry writes the same objects again.

BigQuery reads every object under the prefix whose name ends in .parquet, and so does everything here: one that is not
ours is an error that names it. Other names (`_SUCCESS`, placeholders of folders) are ignored.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import google.api_core.exceptions
import google.auth.exceptions
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from jobs.errors import IS_IT_UP, ConfigurationError, ServiceUnavailableError
from jobs.kafka.staged import Chunk

_PARALLEL_UPLOADS = 4
_UPLOAD_TIMEOUT_S = 60
# The task retries lost connections, 429 and 5xx for this time; after that, Airflow retries the task.
RETRY_FOR_S = 60
WRITE_OPTIONS: dict[str, Any] = {"compression": "zstd", "coerce_timestamps": "us"}
_RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=10).with_timeout(RETRY_FOR_S)

_SUFFIX = ".parquet"
_OUR_NAME = re.compile(r"/\d{4}/\d\d/\d\d/\d\d/[\w.-]+-\d{5}-\d{20}-\d{20}\.parquet")
_OTHER_COLUMNS = "has other columns than this pipeline writes"
NOT_OURS = (
    f"Every object under GCS_PREFIX whose name ends in {_SUFFIX} must be from this pipeline, because BigQuery reads "
    "them all. Move it to another prefix, or delete it."
)
# A hold has the same reason as a missing permission, `forbidden`: only the message tells them apart.
_IS_PROTECTED = re.compile(r"Object '.+?' is (?:subject to .*?retention|under active \S+ hold)[^\"\n]*")


def check_bucket(client: storage.Client, bucket: str) -> None:
    """Check that the bucket exists, before any data is touched.

    Raises:
        ConfigurationError, ServiceUnavailableError
    """
    with translate_errors(client, f"looking for bucket {bucket}"):
        try:
            is_there = client.bucket(bucket).exists(retry=_RETRY, timeout=_UPLOAD_TIMEOUT_S)
        except google.api_core.exceptions.Forbidden:
            return  # The account may write objects but not read buckets: the first upload shows whether it exists.
    if not is_there:
        raise ConfigurationError(
            f"There is no bucket {bucket!r} at {client._connection.API_BASE_URL}. Create it (on the emulator with "
            "`make bucket`) or set GCS_BUCKET."
        )


def create_bucket(client: storage.Client, bucket: str) -> None:
    """Create a bucket if it does not exist.

    Raises:
        ConfigurationError, ServiceUnavailableError
    """
    with translate_errors(client, f"creating bucket {bucket}"), suppress(google.api_core.exceptions.Conflict):
        client.create_bucket(bucket, timeout=_UPLOAD_TIMEOUT_S)


def holds_objects(client: storage.Client, bucket: str, prefix: str) -> bool:
    """Whether the bucket has any Parquet object under the prefix.

    Raises:
        ConfigurationError, ServiceUnavailableError
    """
    with translate_errors(client, f"listing bucket {bucket}"):
        blobs = client.list_blobs(bucket, prefix=join(prefix, ""), retry=_RETRY, timeout=_UPLOAD_TIMEOUT_S)
        return any(blob.name.endswith(_SUFFIX) for blob in blobs)


def list_objects(
    client: storage.Client, bucket: str, prefix: str, hours: tuple[str, str] | None = None
) -> list[storage.Blob]:
    """The Parquet objects under the prefix, sorted by name.

    Args:
        hours: first and last hour (`YYYY/MM/DD/HH`) to list; None for all.

    Raises:
        ConfigurationError, ServiceUnavailableError
    """
    with translate_errors(client, f"listing bucket {bucket}"):
        edges = [join(prefix, hour) for hour in hours] if hours else [None, None]
        blobs = client.list_blobs(
            bucket,
            prefix=join(prefix, ""),
            start_offset=edges[0],
            end_offset=edges[1] and f"{edges[1]}0",  # a slash, which sorts before 0, follows the hour
            retry=_RETRY,
            timeout=_UPLOAD_TIMEOUT_S,
        )
        return [blob for blob in blobs if blob.name.endswith(_SUFFIX)]


def read_rows(blob: storage.Blob, schema: pa.Schema) -> pa.RecordBatch:
    """Read the rows of an object as one batch.

    Raises:
        ConfigurationError: it is not a Parquet file with this schema.
        ServiceUnavailableError: it could not be read.
    """
    table = read_table(blob, schema, with_others=True)
    if not table.schema.equals(schema):
        raise _make_foreign_error(_get_uri(blob), _OTHER_COLUMNS)
    return pa.concat_batches([pa.RecordBatch.from_pylist([], schema=schema), *table.to_batches()])


def read_table(blob: storage.Blob, columns: pa.Schema, *, with_others: bool = False) -> pa.Table:
    """Read columns of an object, which may have others, too.

    Args:
        with_others: read all columns; the object must still have those of `columns`.

    Raises:
        ConfigurationError: it is not a Parquet file with these columns.
        ServiceUnavailableError: it could not be read.
    """
    with translate_errors(blob.client, f"reading {_get_uri(blob)}"):
        content = blob.download_as_bytes(retry=_RETRY, timeout=_UPLOAD_TIMEOUT_S)
    return parse_table(io.BytesIO(content), _get_uri(blob), columns, with_others=with_others)


def parse_table(source: io.BytesIO | Path, uri: str, columns: pa.Schema, *, with_others: bool = False) -> pa.Table:
    """Parse a Parquet file as `read_table` does. `uri` names it in errors.

    Raises:
        ConfigurationError: it is not a Parquet file with these columns.
    """
    try:
        with pq.ParquetFile(source) as file:
            held = file.schema_arrow
            types = dict(zip(held.names, held.types, strict=True))
            if any(types.get(field.name) != field.type for field in columns):
                raise _make_foreign_error(uri, _OTHER_COLUMNS)
            return file.read(None if with_others else columns.names)
    except (pa.ArrowException, OSError) as error:
        raise _make_foreign_error(uri, f"is not a Parquet file ({error})") from error


def _make_foreign_error(uri: str, fault: str) -> ConfigurationError:
    is_our_name = _OUR_NAME.search(uri)
    remedy = "It has a name that this pipeline writes: restore it, or rebuild the sinks (docs/runbook_kafka.md)."
    return ConfigurationError(f"{uri} {fault}. {remedy if is_our_name else NOT_OURS}")


def _get_uri(blob: storage.Blob) -> str:
    return f"gs://{blob.bucket.name}/{blob.name}"


def delete_rows(
    blob: storage.Blob,
    schema: pa.Schema,
    repetitive: Sequence[str],
    is_dropped: Callable[[pa.RecordBatch], NDArray[np.bool_]],
) -> int:
    """Delete rows from an object, or the object if no row is left. Returns how many rows were deleted.

    If another client writes the object meanwhile, its new version is read again, never overwritten.

    Args:
        repetitive: as in `export`.

    Raises:
        ConfigurationError, ServiceUnavailableError: as for `read_rows`; it is safe to try again.
    """
    if not is_dropped(read_rows(blob, schema)).any():
        return 0
    until_unchanged = Retrying(
        retry=retry_if_exception_type(google.api_core.exceptions.PreconditionFailed),
        stop=stop_after_attempt(5),
        reraise=True,
    )
    with translate_errors(blob.client, f"writing {_get_uri(blob)}"):
        dropped: int = until_unchanged(_delete_rows, blob.bucket, blob.name, schema, repetitive, is_dropped)
    return dropped


def _delete_rows(
    bucket: storage.Bucket,
    name: str,
    schema: pa.Schema,
    repetitive: Sequence[str],
    is_dropped: Callable[[pa.RecordBatch], NDArray[np.bool_]],
) -> int:
    blob = bucket.get_blob(name, retry=_RETRY, timeout=_UPLOAD_TIMEOUT_S)
    if blob is None:
        return 0
    rows = read_rows(blob, schema)
    kept = rows.filter(pa.array(~is_dropped(rows)))
    if not len(kept):
        blob.delete(if_generation_match=blob.generation, retry=_RETRY, timeout=_UPLOAD_TIMEOUT_S)
    elif len(kept) < len(rows):
        _upload(bucket, name, kept, repetitive, if_generation_match=blob.generation)
    return len(rows) - len(kept)


def join(prefix: str, name: str) -> str:
    """Join with exactly one slash: `a//b` and `a/b` are two objects."""
    return f"{prefix.strip('/')}/{name}" if prefix.strip("/") else name


def name_object(prefix: str, topic: str, chunk: Chunk, hour: str) -> str:
    """The name of the object for the rows of a chunk in one hour (`YYYY/MM/DD/HH`, UTC)."""
    return join(prefix, f"{hour}/{topic}-{chunk.partition:05d}-{chunk.first:020d}-{chunk.last:020d}.parquet")


def export(
    client: storage.Client,
    bucket: str,
    rows: pa.RecordBatch,
    name: Callable[[str], str],
    repetitive: Sequence[str] = (),
) -> list[str]:
    """Write rows (with a column ts) as one object per hour of ts. Returns the names of the objects.

    Args:
        name: returns the name of the object for an hour (`YYYY/MM/DD/HH`, UTC).
        repetitive: columns with few different values, written with a dictionary. A dictionary for the other columns
            would take half of the time and make the objects larger.

    Raises:
        ServiceUnavailableError, ConfigurationError: not all objects were written; it is safe to try again.
    """
    parts = [(name(hour), part) for hour, part in split_by_hour(rows)]
    target = client.bucket(bucket)
    with ThreadPoolExecutor(_PARALLEL_UPLOADS) as pool, translate_errors(client, f"writing to bucket {bucket}"):
        # The first failure cancels the rest.
        for _ in pool.map(lambda part: _upload(target, part[0], part[1], repetitive), parts):
            pass
    return [name for name, _ in parts]


def split_by_hour(rows: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each hour of ts, in order of offset."""
    hours = rows.column("ts").cast(pa.int64()).to_numpy() // 3_600_000_000
    if (hours[1:] < hours[:-1]).any():
        in_order = np.argsort(hours, kind="stable")
        hours, rows = hours[in_order], rows.take(pa.array(in_order))
    different_hours, begins, counts = np.unique(hours, return_index=True, return_counts=True)
    for hour, begin, count in zip(different_hours.tolist(), begins.tolist(), counts.tolist(), strict=True):
        moment = np.datetime64(hour, "h").item()
        # strftime prints years before 1000 without leading zeros.
        yield f"{moment.year:04d}/{moment:%m/%d/%H}", rows.slice(begin, count)


def _upload(
    target: storage.Bucket,
    name: str,
    rows: pa.RecordBatch,
    repetitive: Sequence[str],
    if_generation_match: int | None = None,
) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_batches([rows]), buffer, use_dictionary=list(repetitive), **WRITE_OPTIONS)
    content = buffer.getvalue()
    try:
        target.blob(name).upload_from_string(
            content,
            "application/vnd.apache.parquet",
            timeout=_UPLOAD_TIMEOUT_S,
            retry=_RETRY,
            checksum="crc32c",
            if_generation_match=if_generation_match,
        )
    except google.api_core.exceptions.Forbidden:
        # A retry overwrites the object of the first try, which a retention policy, a hold or a missing right forbids.
        if not _is_written(target, name, content, rows):
            raise


def _is_written(target: storage.Bucket, name: str, content: bytes, rows: pa.RecordBatch) -> bool:
    """Whether an object has this content, or these rows: another version of pyarrow writes them as other bytes."""
    blob = target.get_blob(name, retry=_RETRY, timeout=_UPLOAD_TIMEOUT_S)
    if blob is None:
        return False
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    return blob.md5_hash == md5 or bool(read_rows(blob, rows.schema).equals(rows))


@contextmanager
def translate_errors(client: storage.Client, doing: str) -> Iterator[None]:
    """Turn the client's errors into ones with the address and what to do."""
    where = client._connection.API_BASE_URL
    try:
        yield
    except google.api_core.exceptions.NotFound as error:
        raise ConfigurationError(f"Cloud Storage at {where}: {doing}: {error.message}. Check GCS_BUCKET.") from error
    except (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized) as error:
        if protection := _IS_PROTECTED.search(error.message):
            raise ConfigurationError(
                f"Cloud Storage at {where}: {doing}: {protection[0]}. Try again after that, or "
                'lift the protection: docs/gcp.md, "Retention policies, holds and versions".'
            ) from error
        raise ConfigurationError(
            f"Cloud Storage at {where}: {doing}: not allowed. Check the key in the connection gcp_default and the "
            f"roles of its service account: {error.message}"
        ) from error
    except (
        google.api_core.exceptions.GoogleAPICallError,
        google.api_core.exceptions.RetryError,
        google.auth.exceptions.TransportError,
        requests.RequestException,
    ) as error:
        raise ServiceUnavailableError(
            f"Cloud Storage at {where}: {doing} failed: {error}. It is safe to try again. {IS_IT_UP}"
        ) from error
