"""Runs a command as a subprocess, with the packages of a vertical's requirement set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from jobs.environments import Command, find_interpreter, make_settings_variables
from jobs.verticals import find_vertical
from operators.base import DatastreamOperator


class SubprocessOperator(DatastreamOperator):
    """Runs `python <arguments>` with the interpreter of a vertical's requirement set.

    The task's log shows its output line by line. The command ends with the task, even if the task is killed. An exit
    code other than 0 fails the try.

    Args:
        vertical: name of the vertical. The command gets the vertical's settings and the addresses of the services as
            environment variables.
        arguments: arguments of the interpreter, for example ("-m", "dbt.cli.main", "build").
        variables: more environment variables, for example a password from a connection.
    """

    template_fields: Sequence[str] = ("arguments", "variables")
    optional_fields: Sequence[str] = ("variables",)

    def __init__(
        self, *, vertical: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.vertical = vertical
        self.arguments = arguments
        self.variables = variables
        self._command: Command | None = None

    def work(self, context: Context, settings: Any) -> None:
        vertical = find_vertical(self.vertical)
        command = [find_interpreter(vertical.requirement_set), *self.arguments]
        variables = make_settings_variables(vertical.settings, settings) | {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka["bootstrap.servers"],
            **(self.variables or {}),
        }
        self._command = Command(command, variables)
        self._command.run(self.log.info)

    def on_kill(self) -> None:
        if self._command is not None:
            self._command.end()
