"""Outputs are replaced at once: a reader sees the old one or the new one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pandas as pd
import pytest

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.tickets import outputs
from jobs.tickets.ledger import compute_metrics, find_differences
from jobs.tickets.outputs import read_output
from jobs.tickets.page import describe_runs, render_page
from jobs.tickets.reader import load_outputs
from tests.testkit.tickets import write_output, write_outputs

ROUNDS = 200


def test_an_output_can_be_read_while_it_is_replaced(tmp_path: Path) -> None:
    """With pandas, as users read it. Each version has as many rows as its number says."""
    write_output(tmp_path, "metrics", [{"total_tickets": 1}])
    ended = threading.Event()

    def write() -> None:
        for number in range(1, ROUNDS):
            write_output(tmp_path, "metrics", [{"total_tickets": number}] * number)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not ended.is_set() or reads < 10:
        content = pd.read_parquet(tmp_path / "metrics")
        assert set(content["total_tickets"]) == {len(content)}
        reads += 1
    writer.join()


def test_what_is_read_is_of_the_run_that_is_named(tmp_path: Path) -> None:
    write_output(tmp_path, "metrics", [{"total_tickets": 0}], "json", run="0")
    ended = threading.Event()

    def write() -> None:
        for number in range(1, ROUNDS):
            write_output(tmp_path, "metrics", [{"total_tickets": number}], "json", run=str(number))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not ended.is_set() or not seen:
        run, content = read_output(tmp_path, "metrics", lambda part, _: json.loads(part.read_text()))
        assert content["total_tickets"] == int(run.id)
        seen.add(run.id)
    writer.join()


def test_another_format_replaces_the_part_file(tmp_path: Path) -> None:
    write_output(tmp_path, "metrics", [{"total_tickets": 1}], "parquet")
    write_output(tmp_path, "metrics", [{"total_tickets": 2}], "json")
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == ["_SUCCESS", "part-00000-metrics.json"]


def test_an_output_whose_writer_was_killed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "READ_S", 0.1)
    write_output(tmp_path, "metrics", [{"total_tickets": 1}])
    (tmp_path / "metrics" / "_SUCCESS").unlink()
    with pytest.raises(ServiceUnavailableError, match="metrics is incomplete"):
        read_output(tmp_path, "metrics", lambda *_: None)
    with pytest.raises(ConfigurationError, match=r"There is no .*rejects"):
        read_output(tmp_path, "rejects", lambda *_: None)


@pytest.mark.parametrize("fmt", ["parquet", "json"])
def test_outputs_of_both_formats_are_shown(tmp_path: Path, fmt: outputs.Format) -> None:
    write_outputs(tmp_path, fmt)
    loaded = load_outputs(tmp_path)
    assert find_differences(loaded, compute_metrics(loaded)) == []
    page = render_page(loaded)
    assert "Created from 2026-01-05 08:15:30 to 2026-01-05 08:15:31 UTC" in page
    assert "not &lt;JSON&gt;" in page
    assert "different runs" not in page


def test_outputs_of_different_runs_are_named(tmp_path: Path) -> None:
    write_outputs(tmp_path)
    write_output(tmp_path, "metrics", [dict.fromkeys(load_outputs(tmp_path).query("FROM metrics")[0], 1)], run="two")
    loaded = load_outputs(tmp_path, wait_s=0)
    assert loaded.run is None
    (line,) = describe_runs(loaded)
    assert "two of 2026-01-05T08:16:00Z: metrics" in line
    assert line.split(".")[0] in render_page(loaded)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("metrics", [{"total_tickets": 3}]),
        ("tickets_by_type", [{"request_type": "account", "count": 2}]),
        ("tickets_by_priority", [{"priority": "high", "count": 1}]),
        ("high_priority_tickets", []),
    ],
)
def test_the_ledger_finds_wrong_figures(tmp_path: Path, name: str, rows: list[dict[str, object]]) -> None:
    write_outputs(tmp_path, "json")
    write_output(tmp_path, name, rows, "json")
    loaded = load_outputs(tmp_path)
    (fault,) = find_differences(loaded, compute_metrics(loaded))
    assert fault.startswith(f"{name}: ")
