"""Runs a dbt command on the shop's warehouse, with dbt's own packages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability.stats import Stats

from jobs.settings import load
from jobs.shop.vertical import ShopSettings
from operators.subprocess_operator import SubprocessOperator


def read_schedule() -> str:
    """The schedule of dbt_transform: SHOP_DBT_SCHEDULE."""
    return load(ShopSettings).shop_dbt_schedule


class DbtOperator(SubprocessOperator):
    """Runs `dbt <command>`; writes a row for each model and test into ops.dbt_results.

    The task's error names what failed. It is not retried if tests failed or a source is too old.

    Args:
        command: dbt's arguments, for example ("run",).
    """

    template_fields: Sequence[str] = ("command",)

    def __init__(self, *, command: Sequence[str], **kwargs: Any) -> None:
        super().__init__(vertical="shop", arguments=(), **kwargs)
        self.command = command

    def work(self, context: Context, settings: Any) -> None:
        from jobs.shop.transform import FailedTestsError, run_dbt

        def run(arguments: Sequence[str], variables: dict[str, str]) -> None:
            self.arguments, self.variables = arguments, variables
            super(DbtOperator, self).work(context, settings)

        with Stats.timer("datastream.dbt.duration", tags={"command": self.task_id}):
            results = run_dbt(settings, self.command, context["ti"].run_id, run)
        for status, count in Counter(node.status for node in results.nodes).items():
            Stats.incr("datastream.dbt.nodes", count, tags={"status": status.replace(" ", "_")})
        try:
            results.check()
        except FailedTestsError as error:
            raise AirflowFailException(str(error)) from error
