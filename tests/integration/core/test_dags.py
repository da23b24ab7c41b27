"""The DAGs: their wiring, and runs by dag.test() in this process against real services."""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from infra.local.runner import ports
from infra.local.services import airflow as airflow_service
from jobs.files import Folder
from jobs.kafka.offsets import read_group_offsets
from jobs.kafka.topic_ids import TopicIds
from jobs.rides.zones import Revenue
from jobs.settings import ROOT
from jobs.zones import playbook
from tests.testkit.flow import move
from tests.testkit.kafka import Raw, produce, read_all
from tests.testkit.parquet import put, ride_rows
from tests.testkit.rides import encode, keyed, result, ride
from tests.testkit.stack import Stack

pytestmark = pytest.mark.timeout(180)

VARIABLES = {
    "bucket": "AIRFLOW_VAR_GCS_BUCKET",
    "prefix": "AIRFLOW_VAR_GCS_PREFIX",
    "topic": "AIRFLOW_VAR_RESULT_TOPIC",
    "result_topic": "AIRFLOW_VAR_RESULT_TOPIC",
    "dlq_topic": "AIRFLOW_VAR_DLQ_TOPIC",
}
COMPUTE = ["ConsumeKafka", "ComputeCostTravel", "PublishKafka"]
INDEX = ["ConsumeKafka", "TransformJSON", "PutElasticSearch", "PutGCP", "CommitOffsets"]


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> Iterator[None]:
    """Set Airflow's environment for this stack before it is imported, and create its database."""
    assert "airflow.settings" not in sys.modules, "Airflow was imported before its environment was set"
    variables = airflow_service.airflow_environment(stack.settings)
    home = Path(variables["AIRFLOW_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        migrated = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            cwd=home, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=150,
        )  # fmt: skip
        assert migrated.returncode == 0, migrated.stderr[-2000:]
        yield


@pytest.fixture(scope="module")
def bag(airflow: None) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])


# --- Wiring ---------------------------------------------------------------------------------------


def test_dags_are_imported_without_errors(bag: Any) -> None:
    assert bag.import_errors == {}
    assert sorted(bag.dags) == [
        "dag_clean_flights",
        "dag_collect_flights",
        "dag_collect_weather",
        "dag_compute_cost",
        "dag_forecast_revenue",
        "dag_import_csv",
        "dag_index_and_export",
        "dag_load_transactions",
        "dag_scrape_departures",
        "dag_zones_score",
        "dag_zones_train",
        "dbt_transform",
    ]


@pytest.mark.parametrize(
    ("dag_id", "tasks"),
    [
        ("dag_compute_cost", COMPUTE),
        ("dag_index_and_export", INDEX),
        ("dag_zones_train", ["TrainLocally"]),
        ("dag_zones_score", ["ScoreLocally"]),
    ],
)
def test_every_dag_has_the_designed_tasks_and_settings(bag: Any, dag_id: str, tasks: list[str]) -> None:
    from airflow.sdk import DeadlineReference

    dag = bag.dags[dag_id]
    assert [task.task_id for task in dag.topological_sort()] == tasks
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert {"datastream", "rides"} <= set(dag.tags)
    assert dag.doc_md
    assert dag.description
    for task in dag.tasks:
        assert (task.owner, task.retries) == ("datastream", 2)
        assert task.retry_delay == timedelta(seconds=5)
        assert task.max_retry_delay == timedelta(seconds=60)
        assert task.retry_exponential_backoff
    deadlines = dag.deadline if isinstance(dag.deadline, list) else [dag.deadline]
    (deadline,) = deadlines
    assert type(deadline.reference) is type(DeadlineReference.DAGRUN_QUEUED_AT)
    assert deadline.interval == timedelta(minutes=15).total_seconds()


def test_zones_are_trained_daily_and_scored_every_15_minutes(bag: Any) -> None:
    for dag_id, schedule in (("dag_zones_train", "2 3 * * *"), ("dag_zones_score", "*/15 * * * *")):
        dag = bag.dags[dag_id]
        assert dag.timetable.expression == schedule
        assert dag.is_paused_upon_creation is True
        (task,) = dag.tasks
        assert (task.bucket, task.prefix) == ("{{ var.value.GCS_BUCKET }}", "{{ var.value.GCS_PREFIX }}")


def test_each_step_is_a_query_job_when_a_project_is_set(airflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.providers.google.cloud.operators.bigquery import BigQueryInsertJobOperator

    for name, value in (("PROJECT", "a-project"), ("DATASET", "mine"), ("LOCATION", "europe-west9")):
        monkeypatch.setenv(f"BIGQUERY_{name}", value)
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    assert bag.import_errors == {}
    expected = {
        "dag_zones_train": playbook.read_steps("setup", "train"),
        "dag_zones_score": playbook.read_steps("setup", "score"),
    }
    for dag_id, steps in expected.items():
        tasks = list(bag.dags[dag_id].topological_sort())
        for upstream, downstream in itertools.pairwise(tasks):
            assert upstream.downstream_task_ids == {downstream.task_id}
        if dag_id == "dag_zones_score":
            assert tasks.pop().task_id == "ReportRevenue"
        assert [task.task_id for task in tasks] == [step.name for step in steps]
        for task in tasks:
            assert isinstance(task, BigQueryInsertJobOperator)
            assert (task.gcp_conn_id, task.project_id, task.location) == ("gcp_default", "a-project", "europe-west9")
            query = task.configuration["query"]
            assert query["useLegacySql"] is False
            assert int(query["maximumBytesBilled"]) > 0
            assert "$" not in query["query"]
            assert "mine." in query["query"] or "a-project.mine" in query["query"]
            assert not any(mark in query["query"] for mark in ("{{", "{%", "{#")), (
                "Airflow would take it for a template"
            )
            assert (task.retries, task.owner) == (2, "datastream")
    names = {task.task_id for dag_id in expected for task in bag.dags[dag_id].tasks}
    assert not names & {step.name for step in playbook.read_steps("look", "scan", "teardown")}


def test_tasks_have_the_designed_order(bag: Any) -> None:
    compute, index = bag.dags["dag_compute_cost"], bag.dags["dag_index_and_export"]
    for upstream, downstream in itertools.pairwise(COMPUTE):
        assert downstream in compute.get_task(upstream).downstream_task_ids
    assert index.get_task("TransformJSON").downstream_task_ids >= {"PutElasticSearch", "PutGCP"}
    assert "PutGCP" not in index.get_task("PutElasticSearch").downstream_task_ids
    assert index.get_task("CommitOffsets").upstream_task_ids >= {"PutElasticSearch", "PutGCP"}
    assert index.get_task("CommitOffsets").trigger_rule == "all_success"


def test_dags_are_scheduled_by_the_asset_and_the_clock(bag: Any) -> None:
    from airflow.sdk import Asset, AssetOrTimeSchedule

    compute, index = bag.dags["dag_compute_cost"], bag.dags["dag_index_and_export"]
    assert compute.timetable.__class__.__name__ == "ContinuousTimetable"
    assert compute.start_date is not None
    assert compute.get_task("PublishKafka").outlets == [Asset("rides_result")]
    assert [task.outlets for task in compute.tasks].count([]) == 2
    assert [dag.get_task("ConsumeKafka").waits_for_messages for dag in (compute, index)] == [True, False]
    assert isinstance(index.timetable, AssetOrTimeSchedule)
    assert index.timetable.timetable.expression == "* * * * *"
    assert "rides_result" in str(index.timetable.asset_condition)


def test_the_forecast_follows_the_tested_marts(bag: Any) -> None:
    from airflow.sdk import Asset

    transform, forecast = bag.dags["dbt_transform"], bag.dags["dag_forecast_revenue"]
    assert {task.task_id: task.outlets for task in transform.tasks if task.outlets} == {"dbt_test": [Asset("marts")]}
    assert "marts" in str(forecast.timetable.asset_condition)
    assert (forecast.max_active_runs, forecast.catchup) == (1, False)
    assert [(task.task_id, task.retries) for task in forecast.tasks] == [("ForecastRevenue", 2)]


def test_plugins_are_not_imported_by_their_bare_names(bag: Any) -> None:
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded() if hasattr(plugins_manager, "ensure_plugins_loaded") else None
    folder = ROOT / "airflow" / "plugins"
    stems = {path.stem for path in folder.rglob("*.py")} - {"__init__"}
    loaded = {
        name for name in stems if name in sys.modules and str(folder) in str(getattr(sys.modules[name], "__file__", ""))
    }
    assert loaded == set()
    ignored = (folder / ".airflowignore").read_text().splitlines()
    for path in folder.iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"{path.name}/" in ignored


def test_task_templates_read_airflow_variables(bag: Any) -> None:
    index = bag.dags["dag_index_and_export"]
    put = index.get_task("PutGCP")
    assert (put.bucket, put.prefix) == ("{{ var.value.GCS_BUCKET }}", "{{ var.value.GCS_PREFIX }}")
    assert bag.dags["dag_compute_cost"].get_task("ConsumeKafka").topic == "{{ var.value.RAW_TOPIC }}"


# --- Runs -----------------------------------------------------------------------------------------


class Dags:
    """Runs the DAGs with topics, index, bucket and prefix of one test."""

    def __init__(self, bag: Any, stack: Stack, names: dict[str, str]) -> None:
        self.bag = bag
        self.stack = stack
        self.raw, self.result, self.dlq = (names[name] for name in ("RAW_TOPIC", "RESULT_TOPIC", "DLQ_TOPIC"))
        self.index, self.prefix = names["RIDES_INDEX"], names["GCS_PREFIX"]

    def run(self, dag_id: str, **conf: Any) -> tuple[dict[str, str], Any]:
        """The state of each task, and the run."""
        dag = self.bag.dags[dag_id]
        with pytest.MonkeyPatch.context() as patch:
            # Airflow 3.3's dag.test() takes a deadline's definition for its id when the run is done, and fails.
            patch.setattr(dag, "deadline", None)
            for task in dag.tasks:
                patch.setattr(task, "retry_delay", timedelta(seconds=1))
            run = dag.test(run_conf=conf)
        return {task.task_id: str(task.state) for task in run.get_task_instances()}, run

    def compute(self) -> dict[str, str]:
        return self.run("dag_compute_cost")[0]

    def index_and_export(self, *, export_now: bool = True) -> dict[str, str]:
        return self.run("dag_index_and_export", export_now=export_now)[0]

    def move(self, group: str, topic: str) -> None:
        """Set a group's offsets to the beginning."""
        move(self.stack.kafka, topic, group, "beginning", TopicIds(Folder(self.stack.settings.staging)))

    def offsets(self, group: str) -> set[int | None]:
        topic = self.raw if group == "dag_compute_cost" else self.result
        return set(read_group_offsets(self.stack.kafka, topic, group).values())

    def rows(self) -> list[tuple[int, int]]:
        """Partition and offset of each row in Parquet."""
        return [
            (row["kafka_partition"], row["kafka_offset"])
            for blob in self.stack.gcs.list_blobs(self.stack.bucket, prefix=self.prefix)
            for row in pq.read_table(io.BytesIO(blob.download_as_bytes())).to_pylist()
        ]

    def held(self) -> tuple[int, int, int, int]:
        """The numbers of results, dead letters, documents and objects."""
        client = self.stack.elasticsearch
        client.indices.refresh(index=self.index, ignore_unavailable=True)
        return (
            len(read_all(self.stack.kafka, self.result)),
            len(read_all(self.stack.kafka, self.dlq)),
            client.count(index=self.index, ignore_unavailable=True)["count"],
            len(list(self.stack.gcs.list_blobs(self.stack.bucket, prefix=self.prefix))),
        )


@pytest.fixture
def dags(
    bag: Any,
    stack: Stack,
    topic_factory: Callable[..., str],
    index: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Dags:
    names = {
        "RAW_TOPIC": topic_factory("raw"),
        "RESULT_TOPIC": topic_factory("result"),
        "DLQ_TOPIC": topic_factory("dlq"),
        "RIDES_INDEX": index,
        "GCS_PREFIX": prefix,
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(f"AIRFLOW_VAR_{name}", value)
    return Dags(bag, stack, names)


def events() -> int:
    """The number of asset events."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    with create_session() as session:
        count: int = session.scalar(select(func.count()).select_from(AssetEvent))
        return count


def all_(state: str, tasks: list[str]) -> dict[str, str]:
    return dict.fromkeys(tasks, state)


def test_rides_flow_through_both_dags(dags: Dags) -> None:
    rides = [ride() for _ in range(40)]
    produce(dags.stack.kafka, dags.raw, [*map(keyed, rides), keyed(rides[0]), Raw(b"bad", b"k"), Raw(None, None)])
    assert dags.compute() == all_("success", COMPUTE)
    assert dags.index_and_export() == all_("success", INDEX)
    results, dead, documents, objects = dags.held()
    assert (results, dead, documents) == (41, 2, 40)
    assert objects > 0
    # Staged files are deleted.
    staging = dags.stack.settings.datastream_state / "staging"
    left = {path.relative_to(staging).parts[0] for path in staging.rglob("*") if path.is_file()}
    assert left == {"topic-ids"}
    # Without new messages both DAGs skip.
    before = dags.held()
    assert set(dags.compute().values()) == {"skipped"}
    assert set(dags.index_and_export().values()) == {"skipped"}
    assert dags.held() == before


def test_an_empty_topic_skips_the_run_without_an_asset_event(dags: Dags) -> None:
    before = events()
    assert dags.compute() == all_("skipped", COMPUTE)
    assert dags.index_and_export() == all_("skipped", INDEX)
    assert events() == before
    assert dags.held() == (0, 0, 0, 0)


def test_rides_are_searchable_before_they_are_exported(dags: Dags, monkeypatch: pytest.MonkeyPatch) -> None:
    produce(dags.stack.kafka, dags.result, [keyed(result()) for _ in range(20)])
    assert dags.index_and_export(export_now=False) == all_("success", INDEX)
    results, _, documents, objects = dags.held()
    assert (results, documents, objects) == (20, 20, 0)
    assert dags.offsets("dag_index_and_export.PutGCP") == {None}
    # Without new messages the whole run is skipped, and the rides keep waiting.
    assert dags.index_and_export(export_now=False) == all_("skipped", INDEX)
    # Their age triggers the export, even in a run without new messages.
    monkeypatch.setenv("EXPORT_MAX_AGE_S", "0")
    assert dags.index_and_export(export_now=False) == all_("skipped", INDEX) | {"PutGCP": "success"}
    assert sorted(dags.rows()) == [
        (record.partition, record.offset) for record in read_all(dags.stack.kafka, dags.result)
    ]
    assert dags.index_and_export(export_now=False) == all_("skipped", INDEX)
    # EXPORT_TARGET_RECORDS triggers the export.
    monkeypatch.setenv("EXPORT_MAX_AGE_S", "300")
    monkeypatch.setenv("EXPORT_TARGET_RECORDS", "15")
    before = dags.held()[3]
    for count, more in ((10, 0), (10, 1)):
        produce(dags.stack.kafka, dags.result, [keyed(result()) for _ in range(count)])
        assert dags.index_and_export(export_now=False) == all_("success", INDEX)
        assert (dags.held()[3] > before) is bool(more)


def test_a_retried_export_writes_the_same_objects(dags: Dags, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if there is more to export by then, and chunks would have other borders."""
    produce(dags.stack.kafka, dags.result, [keyed(result()) for _ in range(60)])

    def killed(*_: Any) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("jobs.rides.export.commit_offsets", killed)
        assert dags.index_and_export()["PutGCP"] == "failed"
    written = {blob.name for blob in dags.stack.gcs.list_blobs(dags.stack.bucket, prefix=dags.prefix)}
    assert written
    produce(dags.stack.kafka, dags.result, [keyed(result()) for _ in range(60)])
    monkeypatch.setenv("CHUNK_RECORDS", "7")
    assert dags.index_and_export() == all_("success", INDEX)
    assert dags.index_and_export()["PutGCP"] == "success"
    rows = dags.rows()
    assert sorted(rows) == [(record.partition, record.offset) for record in read_all(dags.stack.kafka, dags.result)]


def test_a_claim_for_spark_waits_until_an_engine_prices_it(dags: Dags, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/integration/spark has the tests with Spark."""
    produce(dags.stack.kafka, dags.raw, [keyed(ride()) for _ in range(5)])
    monkeypatch.setenv("AIRFLOW_VAR_COMPUTE_ENGINE", "spark")
    monkeypatch.setenv("SPARK_DRIVER_URL", f"http://127.0.0.1:{ports.find_free(1)[0]}")
    assert dags.compute() == dict(zip(COMPUTE, ["success", "failed", "upstream_failed"], strict=True))
    assert dags.held()[:2] == (0, 0)
    assert dags.offsets("dag_compute_cost") == {None}
    # Nothing was staged, and the next run claims the messages again.
    monkeypatch.delenv("AIRFLOW_VAR_COMPUTE_ENGINE")
    assert dags.compute() == all_("success", COMPUTE)
    assert dags.held()[:2] == (5, 0)


def test_dead_letters_name_dag_and_task(dags: Dags) -> None:
    properties = {"price_base": {"type": "double", "fields": {"small": {"type": "byte"}}}}
    dags.stack.elasticsearch.indices.create(index=dags.index, mappings={"properties": properties})
    produce(dags.stack.kafka, dags.result, [keyed(result(price_base=5000.0)), Raw(b"no result", b"k")])
    assert dags.index_and_export() == all_("success", INDEX)
    errors = [letter.error for letter in read_all(dags.stack.kafka, dags.dlq)]
    assert {(error["connector.name"], error["task.id"], error["stage"], error["topic"]) for error in errors} == {
        ("dag_index_and_export", "PutElasticSearch", "TASK_PUT", dags.result),
        ("dag_index_and_export", "TransformJSON", "VALUE_CONVERTER", dags.result),
    }


@pytest.mark.parametrize(
    ("name", "value", "task"),
    [
        ("DISTANCE_METHOD", "foo", "ConsumeKafka"),
        ("AIRFLOW_VAR_RAW_TOPIC", "", "ConsumeKafka"),
        ("AIRFLOW_VAR_RAW_TOPIC", "nowhere", "ConsumeKafka"),
        ("AIRFLOW_VAR_RESULT_TOPIC", "nowhere", "ConsumeKafka"),
        ("AIRFLOW_VAR_DLQ_TOPIC", "nowhere", "ConsumeKafka"),
        ("AIRFLOW_VAR_RESULT_TOPIC", "", "ConsumeKafka"),
        ("AIRFLOW_VAR_COMPUTE_ENGINE", "flink", "ConsumeKafka"),
        ("COMPUTE_ENGINE", "flink", "ConsumeKafka"),
    ],
)
def test_an_invalid_setting_fails_before_data_is_read(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, name: str, value: str, task: str
) -> None:
    produce(dags.stack.kafka, dags.raw, [keyed(ride()) for _ in range(5)])
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        states = dags.compute()
    assert states[task] == "failed", states
    assert states["PublishKafka"] == "upstream_failed"
    assert dags.held() == (0, 0, 0, 0)
    assert dags.offsets("dag_compute_cost") == {None}
    assert dags.compute() == all_("success", COMPUTE)
    assert dags.held()[0] == 5


@pytest.mark.parametrize("name", ["AIRFLOW_VAR_RESULT_TOPIC", "AIRFLOW_VAR_DLQ_TOPIC"])
@pytest.mark.parametrize("value", ["", "nowhere"])
def test_an_invalid_output_topic_fails_a_group_with_offsets_too(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """With committed offsets, the first access to the output topics is the write."""
    dags.move("dag_compute_cost", dags.raw)
    produce(dags.stack.kafka, dags.raw, [keyed(ride()) for _ in range(5)])
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        states = dags.compute()
    assert "failed" in states.values(), states
    assert dags.held() == (0, 0, 0, 0)
    assert dags.offsets("dag_compute_cost") == {0}
    assert dags.compute() == all_("success", COMPUTE)
    assert dags.held()[0] == 5


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("AIRFLOW_VAR_RESULT_TOPIC", "AIRFLOW_VAR_RAW_TOPIC"),
        ("AIRFLOW_VAR_DLQ_TOPIC", "AIRFLOW_VAR_RAW_TOPIC"),
        ("AIRFLOW_VAR_DLQ_TOPIC", "AIRFLOW_VAR_RESULT_TOPIC"),
    ],
)
def test_variables_with_the_same_topic_stop_both_dags(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, name: str, same_as: str
) -> None:
    """The pipeline would read its own output in an endless loop."""
    produce(dags.stack.kafka, dags.raw, [keyed(ride()) for _ in range(5)])
    with monkeypatch.context() as patch:
        patch.setenv(name, os.environ[same_as])
        assert dags.compute()["ConsumeKafka"] == "failed"
        assert dags.index_and_export()["ConsumeKafka"] == "failed"
    assert dags.held() == (0, 0, 0, 0)
    assert dags.offsets("dag_compute_cost") == dags.offsets("dag_index_and_export") == {None}


@pytest.mark.parametrize("has_offsets", [False, True])
def test_an_unknown_bucket_fails_without_a_commit(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, has_offsets: bool
) -> None:
    if has_offsets:
        dags.move("dag_index_and_export.PutGCP", dags.result)
    produce(dags.stack.kafka, dags.result, [keyed(result()) for _ in range(5)])
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW_VAR_GCS_BUCKET", "no-such-bucket")
        states = dags.index_and_export()
    assert states["PutGCP"] == "failed", states
    assert states["CommitOffsets"] == "upstream_failed"
    for group in ("dag_index_and_export", "dag_index_and_export.PutGCP"):
        assert dags.offsets(group) <= {None, 0}
    assert dags.index_and_export() == all_("success", INDEX)
    results, _, documents, objects = dags.held()
    assert (results, documents) == (5, 5)
    assert objects > 0


@pytest.mark.parametrize("dag_id", ["dag_compute_cost", "dag_index_and_export"])
@pytest.mark.parametrize("is_kept", [False, True], ids=["files-gone", "files-kept"])
def test_a_cleared_old_run_does_nothing(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, dag_id: str, is_kept: bool
) -> None:
    """Execute each task after ConsumeKafka again with its old manifest, after a newer run has committed."""
    if is_kept:  # as if its tasks had been killed between commit and clean-up
        monkeypatch.setattr(Folder, "delete", lambda _: None)
        monkeypatch.setattr(Folder, "delete_all_but", lambda *_: None)
    topic = dags.raw if dag_id == "dag_compute_cost" else dags.result
    content = ride if dag_id == "dag_compute_cost" else result
    produce(dags.stack.kafka, topic, [Raw(encode(content()), b"k") for _ in range(5)])
    _, old = dags.run(dag_id)
    produce(dags.stack.kafka, topic, [Raw(encode(content()), b"k") for _ in range(5)])
    dags.run(dag_id)
    before, offsets, asset_events = dags.held(), dags.offsets(dag_id), events()

    from airflow.sdk.exceptions import AirflowSkipException

    inputs = {
        "staged": "ConsumeKafka",
        "computed": "ComputeCostTravel",
        "transformed": "TransformJSON",
        "put": "PutElasticSearch",
    }
    folder = f"{dags.stack.settings.staging}/{dag_id}/{old.run_id}"
    for task in dags.bag.dags[dag_id].topological_sort()[1:]:
        operator = copy.copy(task)
        for name in operator.template_fields:
            is_variable = name not in inputs
            value = os.environ[VARIABLES[name]] if is_variable else f"{folder}/{inputs[name]}/1/manifest.json"
            object.__setattr__(operator, name, value)
        again = SimpleNamespace(task_id=task.task_id, try_number=2, run_id=old.run_id, dag_id=dag_id)
        skipped = pytest.raises(AirflowSkipException, match=r"(?i)nothing is left to do")
        # PutGCP exports the current backlog in any run.
        with suppress(AirflowSkipException) if is_kept or task.task_id == "PutGCP" else skipped:
            operator.execute({"ti": again, "params": {"export_now": True}})
    assert dags.held() == before
    assert dags.offsets(dag_id) == offsets
    assert events() == asset_events


def test_dags_train_zones_and_score_rides(
    dags: Dags, stack: Stack, fresh_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = fresh_name("zones")
    stack.gcs.create_bucket(bucket)
    monkeypatch.setenv("AIRFLOW_VAR_GCS_BUCKET", bucket)
    monkeypatch.setenv("AIRFLOW_VAR_GCS_PREFIX", "rides/processed/")
    rides = ride_rows(300)
    put(stack.gcs, bucket, "rides/processed/", rides)
    # Without a model the score DAG fails at once and names the remedy.
    assert dags.run("dag_zones_score")[0] == {"ScoreLocally": "failed"}
    assert dags.run("dag_zones_train")[0] == {"TrainLocally": "success"}
    assert dags.run("dag_zones_score")[0] == {"ScoreLocally": "success"}
    held = {blob.name for blob in stack.gcs.list_blobs(bucket)}
    assert {"models/rides/kmeans8.json", "models/rides/zones.json", "reference/uber-split2.csv"} <= held
    result = json.loads(stack.gcs.bucket(bucket).blob("models/rides/zones.json").download_as_bytes())
    assert len(result["zones"]) == 8
    revenue = sum(part["revenue"] for part in result["revenue"])
    assert revenue == pytest.approx(sum(ride["price_total"] for ride in rides), rel=1e-9)
    # Rides of another city are rejected, and the last result is kept.
    put(stack.gcs, bucket, "rides/processed/", ride_rows(400, city="paris", first_offset=1_000))
    assert dags.run("dag_zones_score")[0] == {"ScoreLocally": "failed"}
    assert json.loads(stack.gcs.bucket(bucket).blob("models/rides/zones.json").download_as_bytes()) == result


def test_hooks_read_their_connections(airflow: None, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from hooks.elasticsearch_hook import ElasticsearchHook
    from hooks.kafka_hook import KafkaHook

    extra = {"bootstrap.servers": "a:1", "group.id": "shared", "enable.auto.commit": False, "client.id": "me"}
    name = f"kafka_{uuid4().hex[:6]}"
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "kafka", "extra": extra}))
    assert KafkaHook(name).read_config() == {"bootstrap.servers": "a:1", "client.id": "me"}
    assert KafkaHook("kafka_local").read_config()["bootstrap.servers"] == stack.bootstrap_servers
    assert ElasticsearchHook("es_local").get_conn.info()["version"]["number"].startswith("9.")


# --- Cleaning up ----------------------------------------------------------------------------------


def test_the_next_run_deletes_files_of_a_failed_run(dags: Dags) -> None:
    runs = dags.stack.settings.datastream_state / "staging" / "dag_index_and_export"
    left = runs / "failed" / "PutGCP" / "3" / "00000-00000000000000000000.arrow"
    left.parent.mkdir(parents=True)
    left.touch()
    assert dags.index_and_export()["ConsumeKafka"] == "skipped"
    assert not (runs / "failed").exists()


def test_old_runs_are_deleted_from_the_database(dags: Dags) -> None:
    from airflow.models import DagRun, TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select, update

    from infra.cleanup import clean_database

    def held() -> tuple[set[str], set[str]]:
        with create_session() as session:
            return set(session.scalars(select(DagRun.run_id))), set(session.scalars(select(TaskInstance.run_id)))

    produce(dags.stack.kafka, dags.raw, [keyed(ride())])
    old, new = dags.run("dag_compute_cost")[1], dags.run("dag_compute_cost")[1]
    with create_session() as session:
        long_ago = new.start_date - timedelta(days=8)
        session.execute(update(DagRun).where(DagRun.run_id == old.run_id).values(start_date=long_ago))
    assert "would delete 1 of dag_run" in clean_database(dags.stack.settings, True)
    assert old.run_id in held()[0]
    assert "deleted 1 of dag_run" in clean_database(dags.stack.settings, False)
    runs, tasks = held()
    assert old.run_id not in runs | tasks
    assert new.run_id in runs & tasks


# --- Revenue as metrics ---------------------------------------------------------------------------

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/,=")


@pytest.fixture
def gauges(airflow: None, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str, str], float]:
    """The gauges that were sent, by name, zone and comfort."""
    from operators import zones_operator

    sent: dict[tuple[str, str, str], float] = {}

    def gauge(name: str, value: float, *, tags: dict[str, str]) -> None:
        sent[name, tags["zone"], tags["comfort"]] = value

    monkeypatch.setattr(zones_operator, "Stats", SimpleNamespace(gauge=gauge))
    return sent


def revenue(label: str, comfort: str, amount: float) -> Revenue:
    return Revenue(centroid_id=1, label=label, comfort=comfort, revenue=amount, rides=1, outside=0)


def test_revenue_is_sent_by_zone_and_comfort_with_the_time_of_the_scoring(
    gauges: dict[Any, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from operators import zones_operator

    monkeypatch.setattr("time.time", lambda: 1_767_600_000.75)
    zones_operator.send_revenue([revenue("Midtown", "low", 12.5), revenue("Midtown", "high", 3.0)])
    assert gauges == {
        ("datastream.zones.revenue", "Midtown", "low"): 12.5,
        ("datastream.zones.revenue", "Midtown", "high"): 3.0,
        ("datastream.zones.scored_timestamp_seconds", "Midtown", "low"): 1_767_600_000,
        ("datastream.zones.scored_timestamp_seconds", "Midtown", "high"): 1_767_600_000,
    }


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        ("John F. Kennedy Airport", "John_F._Kennedy_Airport"),
        ("Châtelet 2", "Chatelet_2"),
        ("Champs-Élysées", "Champs-Elysees"),
        ("40.713, -74.006", "40.713_-74.006"),
    ],
)
def test_airflow_accepts_the_name_of_every_zone(gauges: dict[Any, float], label: str, tag: str) -> None:
    """Airflow drops a metric whose name or tags have other characters."""
    from airflow.sdk._shared.observability.metrics.validators import stat_name_default_handler

    from operators import zones_operator

    zones_operator.send_revenue([revenue(label, "medium", 1.0)])
    assert {zone for _, zone, _ in gauges} == {tag}
    for name, zone, comfort in gauges:
        assert stat_name_default_handler(f"{name},zone={zone},comfort={comfort}", allowed_chars=ALLOWED)
