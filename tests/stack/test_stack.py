"""The whole stack in Docker: started, used, killed, restarted, given other passwords, removed.

The tests depend on this order: `make test-stack`. They use their own project, ports and volumes.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests
import yaml
from elasticsearch import Elasticsearch
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from infra.docker import environment
from infra.docker.compose import HEALTHY_S
from infra.docker.preflight import PORTS
from infra.grafana.builder import Sql
from infra.local.runner.ports import find_free
from jobs.clients import READER, WRITER
from jobs.settings import ROOT
from jobs.verticals import merge_settings
from tests.testkit.dashboard.picture import BROWSERS
from tests.testkit.grafana import Sources, list_metrics, list_queries
from tests.testkit.wait import until

PROFILE_PORTS = (
    "OBSERVABILITY_PROMETHEUS_PORT",
    "OBSERVABILITY_ALERTMANAGER_PORT",
    "OBSERVABILITY_GRAFANA_PORT",
    "OBSERVABILITY_EXPORTER_PORT",
    "SHOP_POSTGRES_PORT",
    "FLIGHTS_REDIS_PORT",
    "FLIGHTS_MYSQL_PORT",
    "FLIGHTS_CASSANDRA_PORT",
    "FLIGHTS_SELENIUM_PORT",
    "FLIGHTS_DEPARTURES_PORT",
    "FLIGHTS_APIS_PORT",
    "FLIGHTS_RELAY_PORT",
    "SPARK_MASTER_UI_PORT",
    "SPARK_WORKER_UI_PORT",
)
COUNTS = ("raw", "result", "dlq", "pending", "refused", "in_flight", "elasticsearch", "parquet")

pytestmark = pytest.mark.timeout(900)


class Stack:
    """One compose project, whose settings are environment variables."""

    def __init__(self) -> None:
        lines = (ROOT / ".env.example").read_text().splitlines()
        examples = dict(line.split("=", 1) for line in lines if line[:1].isalpha())
        # An empty value means the default, Docker's where there is one, and overrides the .env of this checkout.
        development = {
            name.upper(): str(field.default)
            for name, field in merge_settings().model_fields.items()
            if examples.get(name.upper())
        }
        names_of_ports = [*PORTS, *PROFILE_PORTS]
        ports = dict(zip(names_of_ports, map(str, find_free(len(names_of_ports))), strict=True))
        self.variables = dict.fromkeys(examples, "") | development | ports
        self.variables |= {
            "COMPOSE_PROJECT_NAME": f"datastream-test-{uuid4().hex[:8]}",
            "KAFKA_BOOTSTRAP_SERVERS": f"localhost:{ports['KAFKA_PORT']}",
            "CLOUD_STORAGE": "emulator",
            "GCS_BUCKET": "datastream",
            "GCS_EMULATOR_URL": f"http://127.0.0.1:{ports['GCS_PORT']}",
            "GOOGLE_APPLICATION_CREDENTIALS": "",
            "ELASTICSEARCH_URL": f"http://127.0.0.1:{ports['ELASTICSEARCH_PORT']}",
            "KIBANA_URL": f"http://127.0.0.1:{ports['KIBANA_PORT']}",
            "STAGING_URL": "",
            "PRODUCER_RATE": "50",
            "POLL_WAIT_S": "2",
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *command: str, timeout_s: float = 600, fails: bool = False) -> str:
        """Run a command in the root folder; returns its output."""
        result = subprocess.run(
            command, cwd=ROOT, env=os.environ | self.variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        assert (result.returncode != 0) == fails, f"{' '.join(command)} → {result.returncode}\n{result.stdout}"
        return result.stdout

    def compose(self, *arguments: str, timeout_s: float = 600) -> str:
        return self.run("docker", "compose", *arguments, timeout_s=timeout_s)

    def jobs(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "jobs", *arguments)

    def up(self) -> None:
        """Start and wait until all services are healthy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(HEALTHY_S), timeout_s=HEALTHY_S + 60)

    def ledger(self) -> dict[str, int]:
        """The ledger's counts; it must be balanced."""
        self.jobs("wait")
        assert "balanced" in self.jobs("ledger")
        content = json.loads((ROOT / self.variables["DATASTREAM_STATE"] / "ledger.json").read_text())
        return {name: content[name] for name in COUNTS}

    def elasticsearch(self, path: str, user: str = "", password: str = "") -> requests.Response:
        login = (user, password) if user else None
        return requests.get(f"{self.variables['ELASTICSEARCH_URL']}/{path}", auth=login, timeout=30)

    def url(self, service: str) -> str:
        """The address of a service of the profile `observability`."""
        return f"http://127.0.0.1:{self.variables[f'OBSERVABILITY_{service}_PORT']}"

    def prometheus(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus' API."""
        answer = requests.get(f"{self.url('PROMETHEUS')}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that a PromQL expression has now."""
        return list(self.prometheus("query", query=expression)["result"])

    def airflow_token(self, password: str) -> requests.Response:
        login = {"username": self.variables["AIRFLOW_USER"], "password": password}
        url = f"http://127.0.0.1:{self.variables['AIRFLOW_PORT']}/auth/token"
        return requests.post(url, json=login, timeout=30)

    def started(self) -> dict[str, str]:
        """Since when each container runs; one-shot services run at every start."""
        names = self.compose("ps", "--quiet").split()
        found = json.loads(self.run("docker", "inspect", *names))
        return {
            container["Id"]: container["State"]["StartedAt"] for container in found if container["State"]["Running"]
        }

    def container(self, service: str) -> dict[str, Any]:
        name = self.compose("ps", "--quiet", service).strip()
        (details,) = json.loads(self.run("docker", "inspect", name))
        return dict(details)

    def kill(self, service: str) -> None:
        """Send SIGKILL to a service, and wait until Docker has restarted it and it is healthy.

        The signal comes from a container in the host's process namespace: Docker does not restart a container after
        `docker kill`.
        """
        before = self.container(service)
        pid, image = str(before["State"]["Pid"]), before["Config"]["Image"]
        killer = ("docker", "run", "--rm", "--pid=host", "--user=0", "--entrypoint=bash", image)
        self.run(*killer, "-c", f"kill -9 {pid}")

        def is_back() -> bool:
            now = self.container(service)
            return now["RestartCount"] > before["RestartCount"] and now["State"]["Health"]["Status"] == "healthy"

        until(is_back, f"{service} is back", within_s=HEALTHY_S)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack()
    made.variables["DATASTREAM_STATE"] = str(tmp_path_factory.mktemp("state"))
    try:
        made.compose("--profile", "demo", "build", timeout_s=900)
        yield made
    finally:
        made.compose("--profile", "*", "down", "--volumes", "--timeout", "20")
        project = f"label=com.docker.compose.project={made.variables['COMPOSE_PROJECT_NAME']}"
        for kind in ("container", "volume", "network"):
            left = made.run("docker", kind, "ls", "--quiet", "--filter", project)
            assert left == "", f"{kind}s are left: {left}"


def test_the_stack_starts_healthy_without_settings(stack: Stack) -> None:
    stack.up()
    assert "all healthy" in stack.run(sys.executable, "-m", "infra.docker", "check")


def test_a_second_start_changes_nothing(stack: Stack) -> None:
    before = stack.compose("ps", "--quiet").split()
    stack.run(sys.executable, "-c", "from infra.docker import compose; compose.up()")
    assert stack.compose("ps", "--quiet").split() == before


def test_elasticsearch_rejects_unauthenticated_requests(stack: Stack) -> None:
    assert stack.elasticsearch("rides/_search").status_code == 401
    assert stack.elasticsearch("rides/_search", "elastic", "wrong").status_code == 401
    # The definition of the roles; Elasticsearch enforces them.
    roles = stack.elasticsearch("_security/role", "elastic", "changeme").json()
    (writes,), (reads,) = roles[WRITER]["indices"], roles[READER]["indices"]
    assert writes["names"] == reads["names"] == ["rides*"]
    assert set(writes["privileges"]) == {"create_index", "index", "view_index_metadata"}
    assert set(reads["privileges"]) == {"read", "view_index_metadata"}
    assert roles[WRITER]["cluster"] == ["monitor"]
    assert roles[READER]["cluster"] == []


def test_rides_can_be_produced_from_host_and_container(stack: Stack) -> None:
    stack.jobs("unpause")
    stack.jobs("produce", "--rate", "0", "--count", "300")
    assert stack.ledger()["raw"] == 300
    options = ("--rate", "0", "--count", "200")
    stack.compose("--profile", "demo", "run", "--rm", "--no-deps", "producer", *options)
    assert stack.ledger()["raw"] == 500


def test_the_storage_emulator_takes_large_objects(stack: Stack) -> None:
    endpoint = {"api_endpoint": stack.variables["GCS_EMULATOR_URL"]}
    client = storage.Client(project="test", credentials=AnonymousCredentials(), client_options=endpoint)
    content = os.urandom(32 * 2**20)
    for number in range(3):
        blob = client.bucket("datastream").blob(f"large/{number}")
        blob.upload_from_file(io.BytesIO(content), size=len(content))
        assert blob.download_as_bytes() == content
        blob.delete()
    assert stack.container("gcs")["RestartCount"] == 0


def test_the_smoke_test_is_balanced(stack: Stack) -> None:
    printed = stack.run("make", "smoke", "RIDES=5000")
    assert "✓ balanced" in printed
    assert "rides*, by ts" in printed
    assert "Rides, with" in printed
    assert stack.ledger()["raw"] == 5500


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium")
def test_the_pages_open_in_a_browser(stack: Stack) -> None:
    printed = stack.run("make", "smoke-ui")
    assert "Airflow, DAGs: dag_compute_cost, dag_index_and_export" in printed
    assert all(f"{name}, first page: http" in printed for name in ("Airflow", "Kafka-UI", "Kibana"))


def test_killed_broker_and_search_node_lose_nothing(stack: Stack) -> None:
    before = stack.ledger()
    command = [sys.executable, "-m", "jobs", "produce", "--rate", "500", "--faulty", "0.01"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | stack.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as producer:
        try:
            until(lambda: documents(stack) > before["elasticsearch"], "rides are indexed", within_s=HEALTHY_S)
            stack.kill("kafka")
            stack.kill("elasticsearch")
            # The node answers before its shards do; tasks retry meanwhile.
            until(lambda: documents(stack) >= 0, "the index answers", within_s=HEALTHY_S)
            indexed = documents(stack)
            until(lambda: documents(stack) > indexed, "rides are indexed again", within_s=HEALTHY_S)
            producer.send_signal(signal.SIGINT)
            printed, _ = producer.communicate(timeout=180)
        finally:
            producer.kill()
    assert producer.returncode == 0, printed
    sent = re.search(r"delivered (\d+), failed 0", printed)
    assert sent, printed
    assert stack.ledger()["raw"] == before["raw"] + int(sent[1])


def documents(stack: Stack) -> int:
    """The number of documents; -1 while the shards start."""
    answer = stack.elasticsearch("rides/_count", READER, stack.variables["ELASTICSEARCH_READER_PASSWORD"])
    return -1 if answer.status_code == 503 else int(answer.json()["count"])


def test_data_survives_down_and_up(stack: Stack) -> None:
    before = stack.ledger()
    stack.compose("down")
    stack.up()
    assert stack.ledger() == before


def test_generated_secrets_replace_the_development_secrets(stack: Stack) -> None:
    api = f"http://127.0.0.1:{stack.variables['AIRFLOW_PORT']}/api/v2"
    old = {"Authorization": f"Bearer {stack.airflow_token('admin').json()['access_token']}"}
    stored = {"connection_id": "stored", "conn_type": "http", "host": "example", "password": "kept"}
    assert requests.post(f"{api}/connections", json=stored, headers=old, timeout=30).status_code == 201
    before = stack.ledger()

    # As `make up` does, for a user whose id differs from that of Airflow's image.
    stack.variables |= {name: generate() for name, generate in environment.GENERATED.items()}
    stack.variables["AIRFLOW_UID"] = "1234"
    stack.up()

    assert stack.ledger() == before
    assert "all healthy" in stack.run(sys.executable, "-m", "infra.docker", "check")
    for user in ("elastic", "kibana_system", WRITER, READER):
        assert stack.elasticsearch("_security/_authenticate", user, "changeme").status_code == 401, user
    assert stack.airflow_token("admin").status_code == 401
    assert stack.airflow_token(stack.variables["AIRFLOW_PASSWORD"]).status_code == 201
    assert requests.get(f"{api}/connections", headers=old, timeout=30).status_code in {401, 403}, "an old key signed it"
    read = "from airflow.models import Connection; print(Connection.get_connection_from_secrets('stored').password)"
    assert stack.compose("exec", "airflow-scheduler", "python", "-c", read).splitlines()[-1] == "kept"

    stack.jobs("produce", "--rate", "0", "--count", "100")
    assert stack.ledger()["raw"] == before["raw"] + 100


def test_profiles_add_services_and_restart_nothing(stack: Stack) -> None:
    core, indexed = stack.started(), documents(stack)
    files = ("-f", "compose.yaml", "-f", "tests/stack/observer.yml", "--profile", "observer", "--profile", "demo")
    try:
        # The observer is healthy once it reads metrics of the broker and of Airflow.
        stack.compose(*files, "up", "--detach", "--wait", "--wait-timeout", "300")
        assert core.items() <= stack.started().items()
        until(lambda: documents(stack) > indexed, "rides of the profile are indexed", within_s=120)
        read = (*files, "exec", "observer", "curl", "-sf")
        airflow = stack.compose(*read, "http://statsd-exporter:9102/metrics")
        assert re.search(r'(?m)^airflow_dagrun_duration_success_count\{.*dag_id="dag_compute_cost".*\} [1-9]', airflow)
        assert re.search(r"(?m)^airflow_datastream_rides_priced\S* [1-9]", airflow)
        broker = stack.compose(*read, "http://kafka:7071/metrics")
        assert re.search(r"(?m)^kafka_server_brokertopicmetrics_messagesinpersec [1-9]", broker)
        assert "rides_raw" in stack.compose(
            "exec", "kafka", "/opt/kafka/bin/kafka-topics.sh", "--bootstrap-server", "kafka:9092", "--list"
        )
    finally:
        stack.compose(*files, "rm", "--stop", "--force", "observer", "producer")
    assert core.items() <= stack.started().items()


def test_observability_watches_every_service(stack: Stack) -> None:
    core = stack.started()
    stack.compose("--profile", "observability", "up", "--detach", "--wait", "--wait-timeout", "300")
    assert core.items() <= stack.started().items()
    # The stand-in for Grafana has no metrics.
    is_standin = '"standin"' in requests.get(stack.url("GRAFANA"), timeout=30).text
    ignored = {"grafana:3000"} if is_standin else set()

    def list_down() -> dict[str, str]:
        """The targets that are not up, and why."""
        targets = stack.prometheus("targets", state="active")["activeTargets"]
        found = {target["labels"]["instance"]: target["lastError"] for target in targets if target["health"] != "up"}
        return {name: fault for name, fault in found.items() if name not in ignored}

    until(lambda: list_down() == {}, "all targets are up", within_s=120)
    groups = stack.prometheus("rules")["groups"]
    files = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "infra/prometheus/rules").glob("*.yml"))]
    declared = {
        rule.get("alert") or rule["record"] for file in files for group in file["groups"] for rule in group["rules"]
    }
    assert {rule["name"] for group in groups for rule in group["rules"]} == declared != set()
    assert {rule["lastError"] for group in groups for rule in group["rules"] if "lastError" in rule} == set()
    status = json.loads(stack.run(sys.executable, "-m", "jobs", "status", "--json"))
    assert {("Prometheus", "kafka"), ("exporter", "kafka")} <= {
        (part["seen_by"], part["name"]) for part in status["parts"] if part["is_up"]
    }
    alerts = f"{stack.url('ALERTMANAGER')}/api/v2/alerts"
    until(lambda: "Watchdog" in requests.get(alerts, timeout=30).text, "an alert arrives", within_s=120)


def test_panels_show_what_public_exporters_serve(stack: Stack) -> None:
    """The other panels are tested without Docker. A query that its source rejects fails here, too."""
    password = stack.variables["ELASTICSEARCH_READER_PASSWORD"]
    elasticsearch = Elasticsearch(stack.variables["ELASTICSEARCH_URL"], basic_auth=(READER, password))
    sources = Sources(stack.url("PROMETHEUS"), elasticsearch, range_s=3600)
    exporters = ["kafka_", "elasticsearch_", "pg_"]
    # cAdvisor, where its image is.
    exporters += ["container_"] if stack.query("container_memory_working_set_bytes") else []

    def list_empty() -> list[str]:
        asked = [(panel, target) for _, panel, query, target in list_queries() if not isinstance(query, Sql)]
        counts = [(panel, sources.count_values(target), target) for panel, target in asked]
        return [
            f"{panel.title}: {target['expr']}"
            for panel, count, target in counts
            if not count and "expr" in target and _is_served(target["expr"], exporters)
        ]

    until(lambda: list_empty() == [], "all panels show something", within_s=180)


def _is_served(expr: str, prefixes: list[str]) -> bool:
    """Whether every metric of an expression has one of these prefixes."""
    return all(metric.startswith(tuple(prefixes)) for metric in list_metrics(expr))


def test_exporters_have_the_rights_to_read_their_service(stack: Stack) -> None:
    series = (
        'pg_up{instance="postgres-exporter:9187"} == 1',
        'pg_stat_activity_count{datname="airflow"}',
        'pg_database_size_bytes{datname="airflow"} > 0',
        'elasticsearch_cluster_health_status{color="red"} == 0',
        "elasticsearch_jvm_memory_used_bytes > 0",
        "elasticsearch_filesystem_data_available_bytes > 0",
        'kafka_consumergroup_lag{consumergroup="dag_compute_cost"} >= 0',
        "kafka_controller_kafkacontroller_activecontrollercount == 1",
        "rate(airflow_scheduler_heartbeat[2m]) > 0",
    )
    for query in series:
        until(lambda query=query: stack.query(query) != [], query, within_s=120)  # type: ignore[misc]


def test_a_target_of_a_profile_that_is_off_is_not_down(stack: Stack) -> None:
    def list_warehouses() -> list[str]:
        return [row["value"][1] for row in stack.query('up{instance="warehouse-exporter:9187"}')]

    assert list_warehouses() == []
    stack.compose("--profile", "shop", "up", "--detach", "--wait", "--wait-timeout", "300", "warehouse-exporter")
    until(lambda: list_warehouses() == ["1"], "the warehouse is watched", within_s=120)
    assert stack.query('pg_database_size_bytes{datname="data_warehouse"} > 0')
    stack.compose("--profile", "shop", "rm", "--stop", "--force", "warehouse-exporter", "warehouse-init", "warehouse")
    until(lambda: list_warehouses() == [], "the warehouse is no target any more", within_s=120)


def test_without_observability_the_core_stays(stack: Stack) -> None:
    services = stack.compose("--profile", "observability", "config", "--services").split()
    own = set(services) - set(stack.compose("config", "--services").split())
    stack.compose("--profile", "observability", "rm", "--stop", "--force", *sorted(own))
    assert "all healthy" in stack.run(sys.executable, "-m", "infra.docker", "check")


def test_rides_are_priced_on_spark(stack: Stack) -> None:
    core, before = stack.started(), stack.ledger()
    profile = ("--profile", "spark", "up", "--detach", "--wait", "--wait-timeout", str(HEALTHY_S))
    stack.compose(*profile, timeout_s=HEALTHY_S + 60)
    assert core.items() <= stack.started().items()
    variables = ("exec", "-T", "airflow-scheduler", "airflow", "variables")
    stack.jobs("unpause")
    try:
        stack.compose(*variables, "set", "COMPUTE_ENGINE", "spark")
        stack.jobs("produce", "--rate", "0", "--count", "1000", "--faulty", "0.02")
        assert stack.ledger()["raw"] == before["raw"] + 1000
        assert "Priced file:///opt/airflow/staging/" in stack.compose("logs", "spark-driver")
        for service in ("spark-master", "spark-worker", "spark-stream"):
            stack.kill(service)
        stack.jobs("produce", "--rate", "0", "--count", "1000", "--faulty", "0.02")
        assert stack.ledger()["raw"] == before["raw"] + 2000
        stack.jobs("wait")
        assert "balanced" in stack.jobs("ledger", "spark")
    finally:
        stack.compose(*variables, "delete", "COMPUTE_ENGINE")
        stack.compose("rm", "--stop", "--force", "spark-driver", "spark-stream", "spark-worker", "spark-master")


def test_flights_run_beside_the_core(stack: Stack) -> None:
    core = stack.started()
    profile = ("--profile", "flights", "up", "--detach", "--wait", "--wait-timeout", str(HEALTHY_S))
    stack.compose(*profile, timeout_s=HEALTHY_S + 60)
    assert core.items() <= stack.started().items()
    stack.jobs("unpause", "flights")
    for kind in ("flights", "weather"):
        stack.jobs("flights", "generate", kind, "--rate", "0", "--count", "500", "--faulty", "0.02")
    stack.jobs("flights", "run")
    assert [set(kind["counts"]["observed"]) for kind in take_flights_ledger(stack)] == [
        {"faker", "csv", "scraped", "fake:aviationstack"},
        {"faker", "csv", "scraped", "fake:openweather"},
    ]
    assert all(quota["used"] for quota in json.loads(stack.jobs("flights", "quota", "--json")))
    endpoint = {"api_endpoint": stack.variables["GCS_EMULATOR_URL"]}
    client = storage.Client(project="test", credentials=AnonymousCredentials(), client_options=endpoint)
    assert list(client.list_blobs("datastream", prefix="flights/clean/"))


def take_flights_ledger(stack: Stack) -> list[dict[str, Any]]:
    """The counts of flights and weather, once the relay has caught up; they must be balanced."""
    wait = (
        "from jobs.flights.vertical import FlightsSettings; from jobs.flights.waiting import wait_until_relayed; "
        "from jobs.settings import load; wait_until_relayed(load(FlightsSettings), 120)"
    )
    stack.run(sys.executable, "-c", wait)
    return list(json.loads(stack.jobs("ledger", "flights", "--json"))["kinds"])


@pytest.mark.parametrize("service", ["flights-relay", "redis", "mysql", "cassandra"])
def test_a_killed_part_of_the_flights_loses_nothing(stack: Stack, service: str) -> None:
    def count_generated() -> int:
        flights, _ = take_flights_ledger(stack)
        return sum(flights["counts"][counter].get("faker", 0) for counter in ("observed", "rejected", "repeated"))

    def count_relayed() -> float:
        """What the relay has moved since its start."""
        metrics = requests.get(f"http://127.0.0.1:{stack.variables['FLIGHTS_RELAY_PORT']}/metrics", timeout=30).text
        found = re.search(r'(?m)^datastream_flights_relayed_total\{kind="flight"\} (\S+)', metrics)
        return float(found[1]) if found else 0

    before, relayed = count_generated(), count_relayed()
    command = [sys.executable, "-m", "jobs", "flights", "generate", "flights", "--rate", "100", "--count", "1000"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | stack.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as generator:
        try:
            until(lambda: count_relayed() > relayed, "flights are relayed", within_s=60)
            stack.kill(service)
            printed, _ = generator.communicate(timeout=60)
        finally:
            generator.kill()
    if service == "redis":  # a collector cannot go on without the buffer
        assert generator.returncode == 3, printed
        assert before < count_generated() < before + 1000
    else:
        assert generator.returncode == 0, printed
        assert count_generated() == before + 1000


def test_a_failed_start_names_the_failed_service(stack: Stack) -> None:
    stack.variables["ES_EXTRA_JAVA_OPTS"] = "-XX:+NoSuchOption"
    printed = stack.run(sys.executable, "-c", "from infra.docker import compose; compose.up()", fails=True)
    stack.variables["ES_EXTRA_JAVA_OPTS"] = ""
    assert "elasticsearch (" in printed
    assert "NoSuchOption" in printed
    stack.up()


def test_a_lost_password_is_reported_with_the_remedy(stack: Stack) -> None:
    known = stack.variables["ELASTIC_PASSWORD"]
    stack.variables["ELASTIC_PASSWORD"] = f"not-{known}"
    printed = stack.run("docker", "compose", "run", "--rm", "--no-deps", "elasticsearch-init", fails=True)
    assert "elasticsearch-reset-password" in printed
    assert known not in printed
