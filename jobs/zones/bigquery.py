"""Run the playbook's statements on BigQuery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import google.api_core.exceptions
import google.auth.exceptions
import requests
from google.cloud import bigquery

from jobs.clients import load_google_credentials
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.sinks.parquet import NOT_OURS
from jobs.zones.engine import Answer, RefusedError, StatementError
from jobs.zones.vertical import ZonesSettings

LABELS = {"app": "datastream"}

_CREATE_SCHEMA = re.compile(r"CREATE SCHEMA IF NOT EXISTS `([^`]+)`")
_TIMEOUT_S = 60
_MAX_ROWS = 5_000  # the most rows read from a query result; the rest stays in BigQuery
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def create_bigquery_client(settings: ZonesSettings) -> bigquery.Client:
    """Create a client for BIGQUERY_PROJECT, with the same credentials as for Cloud Storage.

    Raises:
        ConfigurationError: GOOGLE_APPLICATION_CREDENTIALS names no usable file, or there are no credentials.
    """
    credentials, _ = load_google_credentials(settings, "BigQuery")
    return bigquery.Client(settings.bigquery_project, credentials, location=settings.bigquery_location)


class BigQueryEngine:
    """Runs statements as labelled query jobs in the client's project and location; limits the billed bytes."""

    def __init__(self, client: bigquery.Client, max_bytes_billed: int) -> None:
        self._client = client
        self._max_bytes_billed = max_bytes_billed

    @property
    def title(self) -> str:
        """See `Engine.title`."""
        return f"BigQuery (project {self._client.project}, {self._client.location})"

    def estimate(self, statement: str) -> str:
        """Return the bytes that a dry run reports; unknown if the statement reads a table that does not exist yet."""
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False, labels=LABELS)
        try:
            with self._translate_errors("a dry run"):
                job = self._client.query(statement, job_config=config, timeout=_TIMEOUT_S)
        except _MissingError as error:
            return f"unknown until the earlier steps have run: {error}"
        return f"{format_bytes(job.total_bytes_processed or 0)} to read"

    def run(self, statement: str, step: str) -> Answer:
        """See `Engine.run`. Waits for the job."""
        # Creating a dataset needs a permission on the whole project, so skip it if the dataset exists.
        if (schema := _CREATE_SCHEMA.search(statement)) and self._has_dataset(schema[1]):
            return Answer(note="already exists")
        config = bigquery.QueryJobConfig(labels=LABELS | {"step": step}, maximum_bytes_billed=self._max_bytes_billed)
        with self._translate_errors(step):
            job = self._client.query(statement, job_config=config, timeout=_TIMEOUT_S)
            rows = job.result(max_results=_MAX_ROWS)
            note = f"{format_bytes(job.total_bytes_billed or 0)} billed"
            if job.statement_type == "SELECT":
                columns = tuple(field.name for field in rows.schema)
                values = tuple(tuple(row.values()) for row in rows)
                return Answer(rows.total_rows or len(values), columns, values, note)
            if job.statement_type == "CREATE_TABLE_AS_SELECT":
                return Answer(self._client.get_table(job.destination, timeout=_TIMEOUT_S).num_rows, note=note)
            return Answer(job.num_dml_affected_rows, note=note)

    def _has_dataset(self, name: str) -> bool:
        with suppress(_MissingError), self._translate_errors("looking for the dataset"):
            self._client.get_dataset(name, timeout=_TIMEOUT_S)
            return True
        return False

    @contextmanager
    def _translate_errors(self, step: str) -> Iterator[None]:
        """Raise the client's errors as ours, which name the job and the remedy."""
        job_name = f"BigQuery, project {self._client.project}, {step}"
        try:
            yield
        except google.api_core.exceptions.NotFound as error:
            raise _MissingError(
                f"{job_name}: {_extract_message(error)}. Run the earlier steps first (`make bqml`), and check "
                "BIGQUERY_PROJECT, BIGQUERY_DATASET and BIGQUERY_LOCATION. The location must be that of the dataset."
            ) from error
        except (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized) as error:
            raise ConfigurationError(
                f"{job_name}: not allowed: {_extract_message(error)}. The account needs the roles bigquery.jobUser on "
                "the project, bigquery.dataEditor on the dataset and storage.objectViewer on the bucket."
            ) from error
        except google.api_core.exceptions.GoogleAPICallError as error:
            message = _extract_message(error)
            if assertion := re.search(r"Assertion failed: (.*?)(?: at \[\d+:\d+\])?$", message, re.DOTALL):
                raise RefusedError(assertion[1]) from error
            if any(fault.get("reason") == "bytesBilledLimitExceeded" for fault in _list_faults(error)):
                raise ConfigurationError(
                    f"{job_name}: {message}. If this cost is acceptable, raise BIGQUERY_MAX_BYTES_BILLED "
                    f"({self._max_bytes_billed})."
                ) from error
            if "Error while reading" in message and ".parquet" in message:
                raise ConfigurationError(f"{job_name}: {message}. {NOT_OURS}") from error
            if isinstance(error, google.api_core.exceptions.ClientError):
                raise StatementError(f"{job_name}: {message}") from error
            raise ServiceUnavailableError(f"{job_name}: {message}. It is safe to run it again.") from error
        except (
            google.api_core.exceptions.RetryError,
            google.auth.exceptions.TransportError,
            google.auth.exceptions.RefreshError,
            requests.RequestException,
        ) as error:
            raise ServiceUnavailableError(f"{job_name}: no answer: {error}. It is safe to run it again.") from error


def _list_faults(error: google.api_core.exceptions.GoogleAPICallError) -> list[dict[str, str]]:
    return [fault for fault in error.errors or [] if isinstance(fault, dict)]


def _extract_message(error: google.api_core.exceptions.GoogleAPICallError) -> str:
    """Return BigQuery's message without the method, URL, location and job that the client adds to it."""
    return str(next((fault["message"] for fault in _list_faults(error) if fault.get("message")), error.message)).strip()


class _MissingError(StatementError):
    """A statement reads a table or dataset that does not exist."""


def format_bytes(count: int) -> str:
    """Format a number of bytes: 3407872 → `3.25 MiB`."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:,.0f} {_UNITS[unit]}" if amount >= 100 else f"{amount:.3g} {_UNITS[unit]}"
