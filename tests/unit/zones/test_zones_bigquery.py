"""Requests and responses of the BigQuery engine, with a fake server: nothing here has run on BigQuery."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.rides.zones import Revenue
from jobs.zones.bigquery import BigQueryEngine, create_bigquery_client, format_bytes
from jobs.zones.engine import RefusedError, StatementError
from jobs.zones.playbook import build_parameters, read_steps
from jobs.zones.run import open_engine, read_revenue
from jobs.zones.vertical import ZonesSettings

LIMIT = 1_000_000
DESTINATION = {"projectId": "a-project", "datasetId": "rides", "tableId": "zones"}


class FakeBigQuery:
    """Accepts jobs, and responds with the statistics and rows that a test sets."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = f"http://{server.host}:{server.port}"
        self.jobs: list[dict[str, Any]] = []
        self.statistics: dict[str, Any] = {}
        self.fields = {"zone": "STRING", "n": "INTEGER"}
        self.rows: list[list[str]] = []
        self.fault: tuple[int, str, str] | None = None
        self.has_dataset = False
        self.destination: dict[str, str] | None = None
        server.expect_request(re.compile("")).respond_with_handler(self.respond)

    def respond(self, request: Request) -> Response:
        if request.method == "POST":
            self.jobs.append(request.get_json())
        status, content = self.error(*self.fault) if self.fault else self.answer(request.method, request.path)
        return Response(json.dumps(content), status, content_type="application/json")

    def answer(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        if method == "GET" and ("/queries/" in path or path.endswith("/data")):
            return 200, {
                "jobComplete": True,
                "jobReference": {"projectId": "a-project", "jobId": "j", "location": "EU"},
                "schema": {"fields": [{"name": name, "type": kind} for name, kind in self.fields.items()]},
                "totalRows": str(len(self.rows)),
                "rows": [{"f": [{"v": value} for value in row]} for row in self.rows],
                "numDmlAffectedRows": self.statistics.get("numDmlAffectedRows"),
            }
        if method == "GET" and path.endswith("/datasets/rides"):
            if not self.has_dataset:
                return self.error(404, "notFound", "Not found")
            return 200, {"datasetReference": {"projectId": "a-project", "datasetId": "rides"}}
        if method == "GET" and "/tables/" in path:
            return 200, {"tableReference": DESTINATION, "numRows": "8"}
        return 200, self.job(self.jobs[-1])

    def job(self, resource: dict[str, Any]) -> dict[str, Any]:
        query = {"totalBytesProcessed": "3407872", "totalBytesBilled": "10485760", **self.statistics}
        if self.destination:
            resource["configuration"]["query"]["destinationTable"] = self.destination
        return {
            **resource,
            "jobReference": {"projectId": "a-project", "location": "EU", **resource.get("jobReference", {})},
            "status": {"state": "DONE"},
            "statistics": {"totalBytesProcessed": "3407872", "query": query},
        }

    @staticmethod
    def error(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
        errors = [{"reason": reason, "message": message}]
        return status, {"error": {"code": status, "message": message, "errors": errors}}


@pytest.fixture
def fake(httpserver: HTTPServer) -> FakeBigQuery:
    return FakeBigQuery(httpserver)


def engine(url: str) -> BigQueryEngine:
    options = {"api_endpoint": url}
    client = bigquery.Client("a-project", AnonymousCredentials(), location="EU", client_options=options)
    return BigQueryEngine(client, LIMIT)


@pytest.mark.parametrize("has_dataset", [True, False])
def test_a_dataset_is_created_in_fake_bigquery_only_if_missing(fake: FakeBigQuery, has_dataset: bool) -> None:
    """An account that may fill a dataset may not be allowed to create one."""
    fake.has_dataset = has_dataset
    (step,) = read_steps("dataset")
    values = build_parameters(ZonesSettings(_env_file=None, bigquery_project="a-project"))
    (statement,) = step.build_statements(values)
    engine(fake.url).run(statement, step.name)
    assert len(fake.jobs) == (0 if has_dataset else 1)


def test_an_estimate_is_a_dry_run_on_fake_bigquery(fake: FakeBigQuery) -> None:
    assert engine(fake.url).estimate("SELECT 1") == "3.25 MiB to read"
    (job,) = fake.jobs
    configuration = job["configuration"]
    assert configuration["dryRun"] is True
    assert configuration["labels"] == {"app": "datastream"}
    assert configuration["query"] == {"query": "SELECT 1", "useLegacySql": False, "useQueryCache": False}
    assert job["jobReference"]["location"] == "EU"


def test_rows_of_fake_bigquery_are_read(fake: FakeBigQuery) -> None:
    fake.statistics = {"statementType": "SELECT"}
    fake.rows = [["Midtown", "3"], ["Harlem", "2"]]
    answer = engine(fake.url).run("SELECT zone, n FROM rides.x", "36_revenue")
    assert answer.to_records() == [{"zone": "Midtown", "n": 3}, {"zone": "Harlem", "n": 2}]
    assert (answer.rows, answer.note) == (2, "10 MiB billed")
    (job,) = fake.jobs
    assert job["configuration"]["labels"] == {"app": "datastream", "step": "36_revenue"}
    assert job["configuration"]["query"]["maximumBytesBilled"] == str(LIMIT)
    assert "dryRun" not in job["configuration"]


def test_rows_changed_by_a_merge_on_fake_bigquery_are_counted(fake: FakeBigQuery) -> None:
    fake.statistics = {"statementType": "MERGE", "numDmlAffectedRows": "17"}
    answer = engine(fake.url).run("MERGE …", "30_merge_rides")
    assert (answer.rows, answer.columns) == (17, ())


def test_rows_of_a_table_created_on_fake_bigquery_are_counted(fake: FakeBigQuery) -> None:
    fake.statistics = {"statementType": "CREATE_TABLE_AS_SELECT"}
    fake.destination = DESTINATION
    assert engine(fake.url).run("CREATE TABLE …", "25_zones").rows == 8


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ((403, "accessDenied", "Access Denied: Dataset rides"), ConfigurationError, "bigquery.jobUser"),
        ((400, "invalidQuery", "Syntax error: Unexpected )"), StatementError, "a_step: Syntax error"),
        ((404, "notFound", "Not found: Table rides.zones"), StatementError, "BIGQUERY_LOCATION"),
        ((400, "invalidQuery", "Assertion failed: of another city"), RefusedError, "^of another city$"),
        ((400, "bytesBilledLimitExceeded", "over the limit"), ConfigurationError, "BIGQUERY_MAX_BYTES_BILLED"),
        (
            (400, "invalid", "Error while reading table: x, error message: Not Parquet. File: gs://b/p/theirs.parquet"),
            ConfigurationError,
            "gs://b/p/theirs.parquet.*Move it to another prefix, or delete it",
        ),
        ((501, "notImplemented", "not today"), ServiceUnavailableError, "safe to run it again"),
    ],
)
def test_errors_of_fake_bigquery_name_the_remedy(
    fake: FakeBigQuery, fault: tuple[int, str, str], kind: type[Exception], text: str
) -> None:
    fake.fault = fault
    with pytest.raises(kind, match=text):
        engine(fake.url).run("SELECT 1", "a_step")


def test_an_estimate_of_a_missing_table_on_fake_bigquery_is_unknown(fake: FakeBigQuery) -> None:
    fake.fault = (404, "notFound", "Not found: Table rides.zones")
    assert "unknown until the earlier steps have run" in engine(fake.url).estimate("SELECT * FROM rides.zones")
    fake.fault = (400, "invalidQuery", "Syntax error")
    with pytest.raises(StatementError, match="Syntax error"):
        engine(fake.url).estimate("SELECT FROM")


def test_bigquery_with_the_emulator_is_rejected() -> None:
    settings = ZonesSettings(_env_file=None, bigquery_project="a-project", cloud_storage="emulator")
    with (
        pytest.raises(ConfigurationError, match=r"cannot read the emulator.*GCS_BUCKET"),
        open_engine(settings, None),  # type: ignore[arg-type]
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


def test_the_revenue_of_the_last_scoring_is_read_from_its_table(fake: FakeBigQuery) -> None:
    columns = ("cluster_id", "label", "comfort", "revenue", "n", "n_outside")
    kinds = ("INTEGER", "STRING", "STRING", "FLOAT", "INTEGER", "INTEGER")
    fake.fields = dict(zip(columns, kinds, strict=True))
    fake.rows = [["3", "Midtown", "low", "12.5", "2", "0"]]
    fake.statistics = {"statementType": "SELECT"}
    settings = ZonesSettings(_env_file=None, bigquery_project="a-project", bigquery_dataset="mine")
    read = list(read_revenue(engine(fake.url), build_parameters(settings)))
    assert read == [Revenue(centroid_id=3, label="Midtown", comfort="low", revenue=12.5, rides=2, outside=0)]
    (job,) = fake.jobs
    assert "FROM mine.revenue_by_zone" in job["configuration"]["query"]["query"]
