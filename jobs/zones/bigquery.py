"""The playbook's statements on BigQuery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import google.api_core.exceptions
import google.auth.exceptions
import requests
from google.cloud import bigquery

from jobs.clients import google_credentials
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.zones.engine import Answer, RefusedError, StatementError
from jobs.zones.vertical import ZonesSettings

LABELS = {"app": "datastream"}

_CREATE_SCHEMA = re.compile(r"CREATE SCHEMA IF NOT EXISTS `([^`]+)`")
_TIMEOUT_S = 60
_MOST_ROWS = 5_000  # what a query of the playbook is read for; more stays in BigQuery
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def bigquery_client(settings: ZonesSettings) -> bigquery.Client:
    """A client of BIGQUERY_PROJECT, signed in as for Cloud Storage.

    Raises:
        ConfigurationError: GOOGLE_APPLICATION_CREDENTIALS names no usable file, or nothing offers credentials.
    """
    credentials, _ = google_credentials(settings, "BigQuery")
    return bigquery.Client(settings.bigquery_project, credentials, location=settings.bigquery_location)


class BigQueryEngine:
    """Runs statements as query jobs of the client's project and location, labelled, with a limit on billed bytes."""

    def __init__(self, client: bigquery.Client, max_bytes_billed: int) -> None:
        self._client = client
        self._max_bytes_billed = max_bytes_billed

    @property
    def title(self) -> str:
        """As `Engine.title`."""
        return f"BigQuery (project {self._client.project}, {self._client.location})"

    def estimate(self, statement: str) -> str:
        """The bytes that a dry run tells. What reads a table that no step has made yet cannot be told."""
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False, labels=LABELS)
        try:
            with self._explained("a dry run"):
                job = self._client.query(statement, job_config=config, timeout=_TIMEOUT_S)
        except _MissingError as error:
            return f"not known before earlier steps have run: {error}"
        return f"{size(job.total_bytes_processed or 0)} to read"

    def run(self, statement: str, step: str) -> Answer:
        """As `Engine.run`; waits for the job."""
        # To create datasets is a right on the whole project: not needed where this one is there.
        if (schema := _CREATE_SCHEMA.search(statement)) and self._has_dataset(schema[1]):
            return Answer(note="is there")
        config = bigquery.QueryJobConfig(labels=LABELS | {"step": step}, maximum_bytes_billed=self._max_bytes_billed)
        with self._explained(step):
            job = self._client.query(statement, job_config=config, timeout=_TIMEOUT_S)
            rows = job.result(max_results=_MOST_ROWS)
            note = f"{size(job.total_bytes_billed or 0)} billed"
            if job.statement_type == "SELECT":
                columns = tuple(field.name for field in rows.schema)
                values = tuple(tuple(row.values()) for row in rows)
                return Answer(rows.total_rows or len(values), columns, values, note)
            if job.statement_type == "CREATE_TABLE_AS_SELECT":
                return Answer(self._client.get_table(job.destination, timeout=_TIMEOUT_S).num_rows, note=note)
            return Answer(job.num_dml_affected_rows, note=note)

    def _has_dataset(self, name: str) -> bool:
        with suppress(_MissingError), self._explained("looking for the dataset"):
            self._client.get_dataset(name, timeout=_TIMEOUT_S)
            return True
        return False

    @contextmanager
    def _explained(self, step: str) -> Iterator[None]:
        """Turn the client's errors into ours, which name the place and the remedy."""
        where = f"BigQuery, project {self._client.project}, {step}"
        try:
            yield
        except google.api_core.exceptions.NotFound as error:
            raise _MissingError(
                f"{where}: {_message(error)}. Run the earlier steps first (`make bqml`), and check BIGQUERY_PROJECT, "
                "BIGQUERY_DATASET and BIGQUERY_LOCATION: a dataset is found in its own location only."
            ) from error
        except (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized) as error:
            raise ConfigurationError(
                f"{where}: not allowed: {_message(error)}. The account needs the roles bigquery.jobUser on the "
                "project, bigquery.dataEditor on the dataset and storage.objectViewer on the bucket."
            ) from error
        except google.api_core.exceptions.GoogleAPICallError as error:
            if assertion := re.search(r"Assertion failed: (.*?)(?: at \[\d+:\d+\])?$", _message(error), re.DOTALL):
                raise RefusedError(assertion[1]) from error
            if any(fault.get("reason") == "bytesBilledLimitExceeded" for fault in _faults(error)):
                raise ConfigurationError(
                    f"{where}: {_message(error)}. Raise BIGQUERY_MAX_BYTES_BILLED ({self._max_bytes_billed}) if it may "
                    "cost that much."
                ) from error
            if isinstance(error, google.api_core.exceptions.ClientError):
                raise StatementError(f"{where}: {_message(error)}") from error
            raise ServiceUnavailableError(f"{where}: {_message(error)}. It is safe to run it again.") from error
        except (
            google.api_core.exceptions.RetryError,
            google.auth.exceptions.TransportError,
            google.auth.exceptions.RefreshError,
            requests.RequestException,
        ) as error:
            raise ServiceUnavailableError(f"{where}: no answer: {error}. It is safe to run it again.") from error


def _faults(error: google.api_core.exceptions.GoogleAPICallError) -> list[dict[str, str]]:
    return [fault for fault in error.errors or [] if isinstance(fault, dict)]


def _message(error: google.api_core.exceptions.GoogleAPICallError) -> str:
    """What BigQuery says, without what the client puts around it (method, URL, location, job)."""
    return str(next((fault["message"] for fault in _faults(error) if fault.get("message")), error.message)).strip()


class _MissingError(StatementError):
    """A statement needs what is not there."""


def size(count: int) -> str:
    """Bytes for people: 3407872 → `3.25 MiB`."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:,.0f} {_UNITS[unit]}" if amount >= 100 else f"{amount:.3g} {_UNITS[unit]}"
