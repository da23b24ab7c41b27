"""What the BigQuery engine sends and how it takes answers, against a FAKE endpoint: no line of this ran on BigQuery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.zones.bigquery import BigQueryEngine, create_bigquery_client, format_bytes
from jobs.zones.engine import RefusedError, StatementError
from jobs.zones.playbook import parameters, steps
from jobs.zones.run import engine_of
from jobs.zones.vertical import ZonesSettings

LIMIT = 1_000_000


class FakeBigQuery(ThreadingHTTPServer):
    """Takes jobs, and answers as it was told to."""

    jobs: list[dict[str, Any]]
    statistics: dict[str, Any]
    rows: list[list[str]]
    fault: tuple[int, str, str] | None = None
    has_dataset = False

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def job(self, resource: dict[str, Any]) -> dict[str, Any]:
        query = {"totalBytesProcessed": "3407872", "totalBytesBilled": "10485760", **self.statistics}
        return {
            **resource,
            "jobReference": {"projectId": "a-project", "location": "EU", **resource.get("jobReference", {})},
            "status": {"state": "DONE"},
            "statistics": {"totalBytesProcessed": "3407872", "query": query},
        }


class _Handler(BaseHTTPRequestHandler):
    server: FakeBigQuery

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.jobs.append(body)
        self._reply(self.server.job(body))

    def do_GET(self) -> None:
        if "/queries/" in self.path or self.path.split("?")[0].endswith("/data"):
            fields = [{"name": "zone", "type": "STRING"}, {"name": "n", "type": "INTEGER"}]
            self._reply(
                {
                    "jobComplete": True,
                    "jobReference": {"projectId": "a-project", "jobId": "j", "location": "EU"},
                    "schema": {"fields": fields},
                    "totalRows": str(len(self.server.rows)),
                    "rows": [{"f": [{"v": value} for value in row]} for row in self.server.rows],
                    "numDmlAffectedRows": self.server.statistics.get("numDmlAffectedRows"),
                }
            )
        elif self.path.split("?")[0].endswith("/datasets/rides"):
            found = {"datasetReference": {"projectId": "a-project", "datasetId": "rides"}}
            missing = {"error": {"code": 404, "message": "Not found", "errors": [{"reason": "notFound"}]}}
            self._reply(found if self.server.has_dataset else missing, 200 if self.server.has_dataset else 404)
        elif "/tables/" in self.path:
            reference = {"projectId": "a-project", "datasetId": "rides", "tableId": "zones"}
            self._reply({"tableReference": reference, "numRows": "8"})
        else:
            self._reply(self.server.job(self.server.jobs[-1]))

    def _reply(self, content: dict[str, Any], status: int = 200) -> None:
        if self.server.fault:
            status, reason, message = self.server.fault
            content = {
                "error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
            }
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeBigQuery]:
    server = FakeBigQuery(("127.0.0.1", 0), _Handler)
    server.jobs, server.statistics, server.rows = [], {}, []
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def engine(address: str) -> BigQueryEngine:
    options = {"api_endpoint": address}
    client = bigquery.Client("a-project", AnonymousCredentials(), location="EU", client_options=options)
    return BigQueryEngine(client, LIMIT)


@pytest.mark.parametrize("has_dataset", [True, False])
def test_a_dataset_is_created_in_fake_bigquery_only_if_missing(fake: FakeBigQuery, has_dataset: bool) -> None:
    """An account that may fill a dataset may not create any."""
    fake.has_dataset = has_dataset
    (step,) = steps("dataset")
    values = parameters(ZonesSettings(_env_file=None, bigquery_project="a-project"))
    (statement,) = step.statements(values)
    engine(fake.address).run(statement, step.name)
    assert len(fake.jobs) == (0 if has_dataset else 1)


def test_an_estimate_is_a_dry_run_on_fake_bigquery(fake: FakeBigQuery) -> None:
    assert engine(fake.address).estimate("SELECT 1") == "3.25 MiB to read"
    (job,) = fake.jobs
    configuration = job["configuration"]
    assert configuration["dryRun"] is True
    assert configuration["labels"] == {"app": "datastream"}
    assert configuration["query"] == {"query": "SELECT 1", "useLegacySql": False, "useQueryCache": False}
    assert job["jobReference"]["location"] == "EU"


def test_rows_of_fake_bigquery_are_read(fake: FakeBigQuery) -> None:
    fake.statistics = {"statementType": "SELECT"}
    fake.rows = [["Midtown", "3"], ["Harlem", "2"]]
    answer = engine(fake.address).run("SELECT zone, n FROM rides.x", "36_revenue")
    assert answer.to_records() == [{"zone": "Midtown", "n": 3}, {"zone": "Harlem", "n": 2}]
    assert (answer.rows, answer.note) == (2, "10 MiB billed")
    (job,) = fake.jobs
    assert job["configuration"]["labels"] == {"app": "datastream", "step": "36_revenue"}
    assert job["configuration"]["query"]["maximumBytesBilled"] == str(LIMIT)
    assert "dryRun" not in job["configuration"]


def test_rows_changed_by_a_merge_on_fake_bigquery_are_counted(fake: FakeBigQuery) -> None:
    fake.statistics = {"statementType": "MERGE", "numDmlAffectedRows": "17"}
    answer = engine(fake.address).run("MERGE …", "30_merge_rides")
    assert (answer.rows, answer.columns) == (17, ())


def test_rows_of_a_table_created_on_fake_bigquery_are_counted(fake: FakeBigQuery) -> None:
    destination = {"projectId": "a-project", "datasetId": "rides", "tableId": "zones"}
    fake.statistics = {"statementType": "CREATE_TABLE_AS_SELECT"}
    original = fake.job

    def with_destination(resource: dict[str, Any]) -> dict[str, Any]:
        found = original(resource)
        found["configuration"]["query"]["destinationTable"] = destination
        return found

    fake.job = with_destination  # type: ignore[method-assign]
    assert engine(fake.address).run("CREATE TABLE …", "25_zones").rows == 8


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ((403, "accessDenied", "Access Denied: Dataset rides"), ConfigurationError, "bigquery.jobUser"),
        ((400, "invalidQuery", "Syntax error: Unexpected )"), StatementError, "a_step: Syntax error"),
        ((404, "notFound", "Not found: Table rides.zones"), StatementError, "BIGQUERY_LOCATION"),
        ((400, "invalidQuery", "Assertion failed: of another city"), RefusedError, "^of another city$"),
        ((400, "bytesBilledLimitExceeded", "over the limit"), ConfigurationError, "BIGQUERY_MAX_BYTES_BILLED"),
        ((501, "notImplemented", "not today"), ServiceUnavailableError, "safe to run it again"),
    ],
)
def test_errors_of_fake_bigquery_name_the_remedy(
    fake: FakeBigQuery, fault: tuple[int, str, str], kind: type[Exception], text: str
) -> None:
    fake.fault = fault
    with pytest.raises(kind, match=text):
        engine(fake.address).run("SELECT 1", "a_step")


def test_an_estimate_of_a_missing_table_on_fake_bigquery_is_unknown(fake: FakeBigQuery) -> None:
    fake.fault = (404, "notFound", "Not found: Table rides.zones")
    assert "unknown until the earlier steps have run" in engine(fake.address).estimate("SELECT * FROM rides.zones")
    fake.fault = (400, "invalidQuery", "Syntax error")
    with pytest.raises(StatementError, match="Syntax error"):
        engine(fake.address).estimate("SELECT FROM")


def test_bigquery_with_the_emulator_is_rejected() -> None:
    settings = ZonesSettings(_env_file=None, bigquery_project="a-project", cloud_storage="emulator")
    with (
        pytest.raises(ConfigurationError, match=r"cannot read the emulator.*GCS_BUCKET"),
        engine_of(settings, None),  # type: ignore[arg-type]
    ):
        pass


def test_a_missing_key_file_is_reported_by_name() -> None:
    settings = ZonesSettings(
        _env_file=None, bigquery_project="a-project", google_application_credentials="/nowhere/key.json"
    )
    with pytest.raises(ConfigurationError, match=r"/nowhere/key\.json.*GOOGLE_APPLICATION_CREDENTIALS"):
        create_bigquery_client(settings)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1,023 B"), (3_407_872, "3.25 MiB"), (2**41, "2 TiB")])
def test_bytes_are_formatted(count: int, text: str) -> None:
    assert format_bytes(count) == text
