"""The DAGs that collect, run by a real Airflow, and keys that stay out of everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from infra.local.services.catalog import local_stack
from jobs.flights.buffer import open_buffer
from jobs.flights.contract import Kind
from jobs.flights.quota import list_quotas
from tests.testkit.dags import Run, run_dag

pytestmark = pytest.mark.timeout(300)

KEY = "SECRET-42-abcdef"


@pytest.fixture
def collecting(flights: Any) -> Any:
    local_stack(flights).up(["apis"])
    return flights


def count_collected(settings: Any, kind: Kind) -> dict[str, int]:
    with open_buffer(settings) as buffer:
        counts, _, _ = buffer.count_after(kind, "", "0-0")
    return counts.collected


def test_a_used_up_quota_skips_the_run_and_names_the_date(collecting: Any) -> None:
    collecting = collecting.model_copy(update={"flights_aviationstack_per_month": 1})
    order, schedule, (first, second, off), log = run_dag(
        collecting, "dag_collect_flights", Run(), Run(), Run(variables={"FLIGHTS_MYSQL_PORT": "1"})
    )
    assert (order, schedule) == (["CollectFlights"], "0 */8 * * *")
    assert first.tasks == {"CollectFlights": ["success", 1]}
    collected = count_collected(collecting, Kind.FLIGHT)["fake:aviationstack"]
    assert first.metrics["datastream.flights.collected.flights"] == collected > 50
    assert second.tasks == {"CollectFlights": ["skipped", 1]}
    (quota,) = [row for row in list_quotas(collecting) if row.source == "fake:aviationstack"]
    assert (quota.used, quota.left) == (1, 0)
    assert f"{quota.resets_at:%Y-%m-%d}" in log
    assert off.tasks == {"CollectFlights": ["failed", 3]}
    assert "docker compose --profile flights up" in log


def test_weather_is_collected_once_however_often_it_is_fetched(collecting: Any) -> None:
    _, _, (first, second), _ = run_dag(collecting, "dag_collect_weather", Run(), Run())
    assert first.tasks == second.tasks == {"CollectWeather": ["success", 1]}
    assert first.metrics["datastream.flights.collected.weather"] == len(collecting.flights_places.split(","))
    total = sum(run.metrics["datastream.flights.collected.weather"] for run in (first, second))
    total += sum(run.metrics["datastream.flights.repeated.weather"] for run in (first, second))
    assert (
        total == 2 * len(collecting.flights_places.split(",")) == count_collected(collecting, Kind.WEATHER).popitem()[1]
    )


def test_files_are_imported_once(collecting: Any, tmp_path: Path) -> None:
    header = "observed_at,place_id,lat,lon,units,temperature\n"
    good = "2026-01-05T12:00:00Z,DSS,14.67,-17.07,metric,28.5\n"
    file = tmp_path / "weather.csv"
    file.write_text(header + good + "2026-01-05T12:00:00Z,DSS,94,-17.07,metric,28.5\n" + good.replace("12:", "13:"))
    os.utime(file, (1_760_000_000, 1_760_000_000))
    collecting = collecting.model_copy(update={"flights_csv_folder": tmp_path})
    _, _, (first, second), log = run_dag(collecting, "dag_import_csv", Run(), Run())
    assert first.tasks == second.tasks == {"ImportCSV": ["success", 1]}
    assert first.metrics["datastream.flights.collected.csv"] == 2
    assert first.metrics["datastream.flights.rejected.csv.impossible_coordinates"] == 1
    assert second.metrics["datastream.flights.collected.csv"] == 0
    assert count_collected(collecting, Kind.WEATHER) == {"csv": 3}
    assert "Collected from csv: 2 observations, 0 repeats, 1 rejects (1 impossible_coordinates)" in log


def test_a_key_is_in_no_log_and_in_no_file_of_any_service(collecting: Any) -> None:
    """The hosts of the real APIs cannot be reached, so each try fails."""
    keys = {"FLIGHTS_AVIATIONSTACK_KEY": KEY, "FLIGHTS_OPENWEATHER_KEY": KEY, "HTTPS_PROXY": "http://127.0.0.1:9"}
    for dag in ("dag_collect_flights", "dag_collect_weather"):
        _, _, (failed,), log = run_dag(collecting, dag, Run(variables=keys))
        assert next(iter(failed.tasks.values())) == ["failed", 3]
        assert "does not answer" in log
        assert KEY not in log
    state = Path(collecting.datastream_state)
    files = [path for path in state.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("airflow" in str(path) for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
