"""What is read from dbt's result files, and how a failure is described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import CommandError
from jobs.shop.transform import FailedTestsError, Results, make_arguments, make_variables, read_results
from jobs.shop.vertical import ShopSettings

FAILURE = CommandError(1, "python ended with exit code 1")


def node(unique_id: str, status: str, **other: Any) -> dict[str, Any]:
    timing = [{"name": "execute", "completed_at": "2026-01-05T08:00:00.5Z"}]
    return {"unique_id": unique_id, "status": status, "execution_time": 0.5, "timing": timing, **other}


def write(folder: Path, *nodes: dict[str, Any], file: str = "run_results.json") -> Results:
    metadata = {"invocation_id": "i", "generated_at": "2026-01-05T09:00:00Z"}
    (folder / file).write_text(json.dumps({"metadata": metadata, "results": nodes}))
    return read_results(folder, Results("test", failure=FAILURE))


def test_failed_tests_are_named_with_their_rows(tmp_path: Path) -> None:
    relation = '"data_warehouse"."dbt_test_failures"."positive_x"'
    results = write(
        tmp_path,
        node("test.shop.positive_x.a1", "fail", failures=3, relation_name=relation, message="Got 3 results"),
        node("test.shop.unique_x.a2", "pass", failures=0, relation_name=relation),
        node("test.shop.wide.a3", "warn", failures=9, relation_name=relation),
    )
    with pytest.raises(FailedTestsError) as error:
        results.check()
    assert str(error.value) == (
        "dbt test: 1 of 3 failed: positive_x (3 rows in data_warehouse.dbt_test_failures.positive_x)"
    )


def test_an_old_source_is_named_with_its_age(tmp_path: Path) -> None:
    source = node("source.shop.shop.transactions_raw", "error", max_loaded_at_time_ago_in_s=3700.4)
    with pytest.raises(FailedTestsError, match=r"failed: shop\.transactions_raw: the newest row is 3700 s old$"):
        write(tmp_path, source, file="sources.json").check()


@pytest.mark.parametrize("kind", ["model", "test", "snapshot"])
def test_what_the_database_refused_may_be_tried_again(tmp_path: Path, kind: str) -> None:
    message = "Database Error in model a (models/a.sql)\n  deadlock detected\n"
    results = write(tmp_path, node(f"{kind}.shop.a", "error", message=message), node("test.shop.b.c", "skipped"))
    with pytest.raises(CommandError, match="1 of 2 failed: a: deadlock detected") as error:
        results.check()
    assert error.value.code == 1


def test_a_source_that_cannot_be_read_may_be_tried_again(tmp_path: Path) -> None:
    source = {"unique_id": "source.shop.shop.transactions_raw", "error": "no such table", "status": "runtime error"}
    with pytest.raises(CommandError, match="transactions_raw: no such table"):
        write(tmp_path, source, file="sources.json").check()


def test_without_results_the_output_is_the_error(tmp_path: Path) -> None:
    results = read_results(tmp_path, Results("run", failure=FAILURE))
    with pytest.raises(CommandError, match="ended with exit code 1"):
        results.check()
    Results("run").check()


def test_all_files_of_dbt_are_in_the_target_folder(tmp_path: Path) -> None:
    arguments = make_arguments(("run", "--select", "a"), tmp_path)
    assert arguments[arguments.index("run") :][:3] == ["run", "--select", "a"]
    assert [arguments[arguments.index(name) + 1] for name in ("--target-path", "--log-path")] == [str(tmp_path)] * 2


def test_dbt_hides_its_password() -> None:
    variables = make_variables(ShopSettings(_env_file=None, shop_dbt_password="secret"))  # noqa: S106
    assert [name for name, value in variables.items() if value == "secret"] == ["DBT_ENV_SECRET_SHOP_DBT_PASSWORD"]
