"""The DAG dag_load_transactions, run by a real Airflow."""

from __future__ import annotations

import pytest

from jobs.shop.vertical import LOAD_DAG, LOAD_GROUP
from tests.testkit.dags import Run, run_dag
from tests.testkit.shop import Loading, transaction

pytestmark = pytest.mark.timeout(300)

TASKS = ["ConsumeKafka", "LoadTransactions", "PublishDeadLetters"]


def test_the_dag_loads_repairs_and_names_what_is_off(loading: Loading) -> None:
    loading.group = LOAD_GROUP
    loading.settings = loading.settings.model_copy(update={"poll_wait_s": 1})
    # A run was killed after the database decided: its dead letter is not published.
    loading.send(b"bad, too")
    loading.load(loading.staged())
    assert loading.dead_letters() == []
    content = transaction(statut="pending")
    loading.send(transaction(), content, content | {"statut": "success", "updated_at": "2026-11-02T00:00:00Z"}, b"bad")
    off_run = Run(variables={"SHOP_POSTGRES_PORT": "1"})
    order, _, (loaded, nothing_new, off), log = run_dag(loading.settings, LOAD_DAG, Run(), Run(), off_run)

    assert order == TASKS
    assert loaded.tasks == {task: ["success", 1] for task in TASKS}
    assert loaded.metrics == {
        "datastream.shop.inserted": 2, "datastream.shop.updated": 1, "datastream.shop.repeated": 0,
        "datastream.shop.stale": 0, "datastream.shop.refused.invalid_json": 1,
    }  # fmt: skip
    assert "Loaded 4 messages: 2 inserted, 1 updated, 0 repeated, 0 stale, 1 refused (1 invalid_json)" in log
    assert loading.query("SELECT statut FROM raw.transactions_raw") == [("success",), ("success",)]
    assert "published 1 dead letters: a run was killed" in log
    letters = loading.dead_letters()
    assert sorted(letter.value or b"" for letter in letters) == [b"bad", b"bad, too"]
    for letter in letters:
        assert letter.error["connector.name"] == "dag_load_transactions"
        assert (letter.error["task.id"], letter.error["stage"]) == ("LoadTransactions", "TASK_PUT")
    assert {p: o for p, o in loading.group_offsets().items() if o is not None} == loading.positions()

    assert nothing_new.tasks == {"ConsumeKafka": ["skipped", 1], **{task: ["skipped", 0] for task in TASKS[1:]}}

    # A database that does not answer is tried again, and the profile is named.
    assert off.tasks["ConsumeKafka"] == ["failed", 3]
    assert "docker compose --profile shop up" in log
