"""What the commands that trace a message print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from jobs.cli.app import console, error_console
from jobs.errors import DatastreamError
from jobs.settings import Settings
from jobs.terminal import encode_value, escape, print_error, print_json, show_value
from jobs.vertical import Vertical

if TYPE_CHECKING:
    from jobs.tracing import LogLine, Sighting


def show_trace(
    settings: Settings, vertical: Vertical, key: dict[str, str], sightings: Sequence[Sighting], *, as_json: bool
) -> None:
    """Print sightings, and the log lines of the runs that processed them, if Airflow answers.

    Args:
        key: the name and value of the message's key, for the JSON document.
    """
    lines = _read_log_lines(settings, vertical, sightings) if sightings else []
    if as_json:
        print_json({**key, "sightings": [describe_sighting(sighting) for sighting in sightings], "log": lines})
        return
    print_sightings(console, sightings)
    print_log_lines(console, lines)


def _read_log_lines(settings: Settings, vertical: Vertical, sightings: Sequence[Sighting]) -> list[LogLine]:
    from jobs.tracing import find_log_lines

    try:
        return find_log_lines(settings, vertical, sightings)
    except DatastreamError as error:
        print_error(error_console, error)
        error_console.print("The trace has no log lines.")
        return []


def describe_sighting(sighting: Sighting) -> dict[str, Any]:
    """Describe a sighting for `print_json`."""
    content = sighting.content if isinstance(sighting.content, dict) else encode_value(sighting.content)
    return {"place": sighting.place, "position": sighting.position, "error": sighting.error, "content": content}


def print_sightings(console: Console, sightings: Sequence[Sighting]) -> None:
    """Print each sighting: place and position on a line, then the content."""
    for sighting in sightings:
        position = ", ".join(f"{name} {value}" for name, value in sighting.position.items())
        console.print(f"[bold]{escape(sighting.place)}[/]  {escape(position)}".rstrip())
        if sighting.error:
            console.print(f"  {escape(sighting.error)}")
        content = sighting.content
        console.print(f"  {show_value(msgspec.json.encode(content) if isinstance(content, dict) else content)}")


def print_log_lines(console: Console, lines: Sequence[LogLine]) -> None:
    """Print log lines by run."""
    run = None
    for line in lines:
        if run != (line.dag_id, line.run_id):
            run = line.dag_id, line.run_id
            console.print(f"[bold]log[/]  {escape(line.dag_id)}, run {escape(line.run_id)}")
        console.print(f"  {line.timestamp[11:23]} {escape(line.level):<7} {escape(line.task_id)}: {escape(line.text)}")
