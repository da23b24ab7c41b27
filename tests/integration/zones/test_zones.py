"""The playbook on the local engine, with Parquet objects that PutGCP's code wrote to the emulator."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.errors import ConfigurationError, DatastreamError
from jobs.rides.zones import Zones, read, write
from jobs.settings import ROOT, Settings
from jobs.zones import playbook, reference
from jobs.zones import run as work
from jobs.zones.engine import Answer, RefusedError, StatementError
from jobs.zones.local import LocalEngine
from jobs.zones.playbook import Parameters, Step
from tests.testkit.parquet import put, ride_rows
from tests.testkit.stack import Stack

RIDES = 1_500
ZONES = (
    "Midtown|Downtown Manhattan|Upper East Side|Williamsburg|Park Slope|Harlem|LaGuardia Airport|"
    "John F. Kennedy Airport"
)


def quiet(step: Step, statement: str, answer: Answer) -> None:
    pass


@pytest.fixture
def bucket(stack: Stack, fresh_name: Callable[[str], str]) -> str:
    """A new bucket: the reference file is in the same bucket as the rides."""
    name = fresh_name("zones")
    stack.gcs.create_bucket(name)
    return name


@pytest.fixture
def settings(stack: Stack, bucket: str) -> Settings:
    return stack.settings.model_copy(update={"gcs_bucket": bucket, "gcs_prefix": "rides/processed/"})


@pytest.fixture
def values(settings: Settings) -> Parameters:
    return playbook.build_parameters(settings)


@pytest.fixture
def rows(stack: Stack, bucket: str) -> list[dict[str, Any]]:
    """Rides in the bucket, some of them twice with another price in the later message."""
    rides = ride_rows(RIDES)
    again = [
        ride | {"kafka_offset": RIDES + number, "price_total": ride["price_total"] + 1, "comfort": "high"}
        for number, ride in enumerate(rides[:40])
    ]
    put(stack.gcs, bucket, "rides/processed/", rides)
    put(stack.gcs, bucket, "rides/processed/", again)
    return again + rides[40:]


@pytest.fixture
def engine(stack: Stack) -> Iterator[LocalEngine]:
    with LocalEngine(stack.gcs) as made:
        yield made


def whole(engine: LocalEngine, settings: Settings, *roles: playbook.Role) -> tuple[work.Answers, Zones]:
    values = playbook.build_parameters(settings)
    report = work.prepare(settings, engine._client, values)
    answers = work.run(engine, playbook.read_steps(*(roles or playbook.USUAL)), values, quiet)
    return answers, work.collect(answers, engine.title, str(report))


def select(engine: LocalEngine, sql: str) -> list[dict[str, Any]]:
    return engine.run(sql, "test").to_records()


# --- The whole playbook ---------------------------------------------------------------------------


def test_every_step_runs_and_the_revenue_matches_the_rides(
    stack: Stack, engine: LocalEngine, settings: Settings, rows: list[dict[str, Any]], bucket: str
) -> None:
    answers, result = whole(engine, settings, *playbook.USUAL)
    assert list(answers) == [step.name for step in playbook.read_steps(*playbook.USUAL)]

    # The content of Parquet, read directly.
    objects = [blob.download_as_bytes() for blob in stack.gcs.list_blobs(bucket, prefix="rides/processed/")]
    held = [row for content in objects for row in pq.read_table(io.BytesIO(content)).to_pylist()]
    assert len(held) == RIDES + 40
    latest = {row["ride_id"]: row for row in sorted(held, key=lambda row: row["kafka_offset"])}
    assert len(latest) == RIDES == len(rows)
    expected = math.fsum(row["price_total"] for row in latest.values())
    assert sum(part.revenue for part in result.revenue) == pytest.approx(expected, rel=1e-9)
    assert result.rides == RIDES

    by_comfort: dict[str, float] = defaultdict(float)
    for part in result.revenue:
        by_comfort[part.comfort] += part.revenue
    for comfort, revenue in by_comfort.items():
        prices = [row["price_total"] for row in latest.values() if row["comfort"] == comfort]
        assert revenue == pytest.approx(math.fsum(prices), rel=1e-9)
    assert len(by_comfort) == 3

    hours = select(engine, "SELECT hour, SUM(revenue) AS revenue, SUM(n) AS n FROM rides.revenue_by_hour GROUP BY 1")
    by_hour = Counter(row["ts"].replace(minute=0, second=0, microsecond=0) for row in latest.values())
    assert {row["hour"].replace(tzinfo=None): row["n"] for row in hours} == {
        hour.replace(tzinfo=None): n for hour, n in by_hour.items()
    }
    assert sum(row["revenue"] for row in hours) == pytest.approx(expected, rel=1e-9)

    # Zones have different names, and ids from 1 to 8.
    assert sorted(zone.centroid_id for zone in result.zones) == list(range(1, 9))
    assert len({zone.label for zone in result.zones}) == 8
    assert {"Midtown", "LaGuardia Airport", "John F. Kennedy Airport"} < {zone.label for zone in result.zones}
    assert all(zone.reference_points > 50 for zone in result.zones)
    assert "GENERATED" in result.reference

    # Each ride is in the zone with the nearest centre in the model's space, and keeps all its columns.
    model = engine._models["rides.kmeans8"]
    learnt = select(engine, "SELECT longitude, latitude FROM rides.reference_uber")
    points = (np.array([[row["longitude"], row["latitude"]] for row in learnt]) - model.mean) / model.scale
    reach = np.linalg.norm(points[:, None] - np.array(model.centroids), axis=2)
    for zone in result.zones:
        own = reach.min(axis=1)[reach.argmin(axis=1) == zone.centroid_id - 1]
        assert (zone.reference_points, zone.radius) == (len(own), pytest.approx(own.max(), rel=1e-9))
    placed = {row["ride_id"]: row for row in select(engine, "SELECT * FROM rides.ride_zones")}
    for ride_id, row in latest.items():
        place = placed[ride_id]
        assert {name: place[name] for name in row} == row
        point = (np.array([row["origin_lon"], row["origin_lat"]]) - model.mean) / model.scale
        distances = np.linalg.norm(np.array(model.centroids) - point, axis=1)
        assert place["cluster_id"] == distances.argmin() + 1
        assert place["distance"] == pytest.approx(distances.min(), rel=1e-9, abs=1e-12)
        radius = next(zone.radius for zone in result.zones if zone.centroid_id == place["cluster_id"])
        assert place["is_outside"] == (place["distance"] > radius)
    assert result.outside == sum(place["is_outside"] for place in placed.values()) < 0.02 * RIDES

    # SQL and loader count the same points of the reference file.
    content = stack.gcs.bucket(bucket).blob(reference.OBJECT).download_as_bytes()
    report = reference.inspect(io.BytesIO(content), playbook.build_parameters(settings))
    (counted,) = answers["12_reference_report"][0].to_records()
    assert counted == {
        "line_count": report.lines,
        **{name: getattr(report, name) for name in ("unreadable", "duplicates", "outside", "used", "made_up")},
    }
    assert report.duplicates > 0 < report.outside
    assert sum(zone.reference_points for zone in result.zones) == report.used

    scan = [answer.to_records()[0] for answer in answers["43_scan_of_k"][1::2]]
    assert [row["k"] for row in scan] == list(range(4, 13))
    errors = [row["mean_squared_distance"] for row in scan]
    assert errors == sorted(errors, reverse=True)
    costs = {row["source"]: row["n"] for answer in answers["42_cost_comparison"] for row in answer.to_records()}
    assert (costs["external, all"], costs["native, all"]) == (RIDES + 40, RIDES)


def test_a_repeated_merge_changes_nothing(
    stack: Stack, engine: LocalEngine, settings: Settings, values: Parameters, rows: list[dict[str, Any]], bucket: str
) -> None:
    (merge,) = [step for step in playbook.read_steps("score") if step.name == "30_merge_rides"]
    everything = "SELECT * FROM rides.rides_processed ORDER BY ride_id"

    def merged() -> int | None:
        return work.run(engine, [*playbook.read_steps("dataset", "setup"), merge], values, quiet)["30_merge_rides"][
            0
        ].rows

    assert merged() == RIDES
    before = select(engine, everything)
    assert {row["ride_id"]: row for row in before} == {row["ride_id"]: row for row in rows}
    assert merged() == 0
    assert select(engine, everything) == before
    # A ride that is sent again changes its row; a new one adds a row.
    later = rows[0] | {"kafka_offset": 10_000, "price_total": 77.0}
    new = ride_rows(1, seed=99, first_offset=10_001)
    put(stack.gcs, bucket, "rides/processed/", [later, *new])
    assert merged() == 2
    assert merged() == 0
    after = {row["ride_id"]: row for row in select(engine, everything)}
    assert after[later["ride_id"]]["price_total"] == 77.0
    assert len(after) == RIDES + 1


def test_a_merge_without_the_distinct_view_doubles_rides(
    engine: LocalEngine, values: Parameters, rows: list[dict[str, Any]]
) -> None:
    """The reason for the view."""
    (merge,) = [step for step in playbook.read_steps("score") if step.name == "30_merge_rides"]
    work.run(engine, playbook.read_steps("dataset", "setup"), values, quiet)
    (statement,) = merge.build_statements(values)
    engine.run(statement.replace("rides.rides_distinct", "rides.rides_processed_ext"), "test")
    assert select(engine, "SELECT COUNT(*) AS n FROM rides.rides_processed") == [{"n": RIDES + 40}]


def test_only_rides_under_the_prefix_are_read(
    stack: Stack, engine: LocalEngine, values: Parameters, rows: list[dict[str, Any]], bucket: str
) -> None:
    for prefix in ("rides/processed-other/", "staging/", "models/"):
        put(stack.gcs, bucket, prefix, ride_rows(5, seed=7))
    stack.gcs.bucket(bucket).blob("rides/processed/2026/01/05/22/notes.txt").upload_from_string("no ride")
    work.run(engine, playbook.read_steps("dataset", "setup"), values, quiet)
    assert select(engine, "SELECT COUNT(*) AS n FROM rides.rides_processed_ext") == [{"n": RIDES + 40}]
    by_file = select(engine, "SELECT DISTINCT _FILE_NAME AS name FROM rides.rides_processed_ext ORDER BY name")
    assert len(by_file) > 3
    assert all(row["name"].startswith(f"gs://{bucket}/rides/processed/2026/01/0") for row in by_file)
    today = select(
        engine,
        "SELECT COUNT(*) AS n FROM rides.rides_processed_ext "  # noqa: S608
        f"WHERE _FILE_NAME LIKE 'gs://{bucket}/rides/processed/2026/01/06/%'",
    )
    assert 0 < today[0]["n"] < RIDES


# --- Another city ---------------------------------------------------------------------------------


def test_rides_of_another_city_are_rejected_with_the_remedy(
    stack: Stack, engine: LocalEngine, settings: Settings, bucket: str
) -> None:
    put(stack.gcs, bucket, "rides/processed/", ride_rows(200, city="paris"))
    with pytest.raises(RefusedError, match=r"another city.*gs://.*reference/uber-split2\.csv.*SERVICE_AREA") as raised:
        whole(engine, settings)
    assert bucket in str(raised.value)
    (outside,) = select(engine, "SELECT COUNTIF(is_outside) AS n, MIN(distance) AS nearest FROM rides.ride_zones")
    assert outside["n"] == 200
    assert outside["nearest"] > 100
    with pytest.raises(StatementError, match="revenue_by_zone"):
        select(engine, "SELECT * FROM rides.revenue_by_zone")


@pytest.mark.parametrize(("far_rides", "is_rejected"), [(100, False), (101, True)])
def test_more_than_half_of_the_rides_outside_is_rejected(
    stack: Stack, engine: LocalEngine, settings: Settings, bucket: str, far_rides: int, is_rejected: bool
) -> None:
    home = [ride | {"origin_lat": 40.7549, "origin_lon": -73.984} for ride in ride_rows(100)]
    put(stack.gcs, bucket, "rides/processed/", home + ride_rows(far_rides, city="paris", first_offset=100))
    if is_rejected:
        with pytest.raises(RefusedError):
            whole(engine, settings)
    else:
        assert whole(engine, settings)[1].outside == far_rides


def test_a_reference_file_of_the_same_city_works_for_any_city(
    stack: Stack, engine: LocalEngine, settings: Settings, bucket: str
) -> None:
    rides = ride_rows(400, city="paris")
    put(stack.gcs, bucket, "rides/processed/", rides)
    lines = [
        f"2014-08-01,{ride['origin_lat']},{ride['origin_lon']},B1" for ride in ride_rows(2_000, city="paris", seed=5)
    ]
    stack.gcs.bucket(bucket).blob(reference.OBJECT).upload_from_string("\n".join(lines))
    _, result = whole(engine, settings.model_copy(update={"service_area": "48.6,2.0,49.1,2.7"}))
    assert "GENERATED" not in result.reference
    assert result.outside < 40
    assert "Roissy" in {zone.label for zone in result.zones}


# --- The reference file ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["date,lat,lon,ID", "Date/Time,Lat,Lon,Base", "no header"])
@pytest.mark.parametrize("is_faulty", [True, False])
def test_all_three_forms_of_the_reference_file_are_loaded(
    stack: Stack, engine: LocalEngine, settings: Settings, rows: list[dict[str, Any]], form: Any, is_faulty: bool
) -> None:
    content = reference.generate(form, points=2_000, has_crlf=is_faulty, ends_with_newline=not is_faulty)
    stack.gcs.bucket(settings.bucket).blob(reference.OBJECT).upload_from_string(content)
    values = playbook.build_parameters(settings)
    answers = work.run(engine, playbook.read_steps("dataset", "setup", "train", "look")[:8], values, quiet)
    (counted,) = answers["12_reference_report"][0].to_records()
    assert counted == {
        "line_count": 2_000 + (form != "no header"),
        "unreadable": int(form != "no header"),
        "duplicates": 20,
        "outside": 20,
        "used": 1_960,
        "made_up": 2_000,
    }
    assert answers["13_reference_uber"][0].rows == 1_960


def test_a_generated_reference_file_is_written_only_to_the_emulator(
    stack: Stack, settings: Settings, values: Parameters, bucket: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"no gs://.*uber-split2\.csv.*docs/bqml_playbook\.md"):
        reference.ensure(stack.gcs, values, may_generate=False)
    assert not stack.gcs.bucket(bucket).blob(reference.OBJECT).exists()
    made = work.prepare(settings, stack.gcs, values)
    assert made.made_up
    assert reference.ensure(stack.gcs, values, may_generate=False) == made


CSV = "".join(f"8/1/2014 0:{minute:02d}:00,40.7{minute:02d},-73.99,B02512\n" for minute in range(60))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (CSV.replace(",", ";").encode(), "60 of 60.*line 1, '8/1/2014 0:00:00;40.700.*separated by semicolons"),
        (CSV.replace(",", "\t").encode(), "60 of 60.*line 1,.*separated by tabs"),
        (CSV.encode() + 8 * b"no point\n", "8 of 68.*line 61, 'no point': it has 1 of 4 columns"),
        (b"lat,lon\n40.7,-73.9\n", "2 of 2.*line 1, 'lat,lon': its latitude is not a number"),
        (CSV.encode("utf-16"), "is in UTF-16. Convert it: iconv"),
        (CSV.encode("utf-16-le"), "is not a text file, or is in UTF-16"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is an HTML or XML page. Download the file itself"),
        (gzip.compress(CSV.encode()), "is compressed. Unpack it first"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_reference_file_in_another_format_is_rejected(
    stack: Stack, values: Parameters, bucket: str, content: bytes, fault: str
) -> None:
    stack.gcs.bucket(bucket).blob(reference.OBJECT).upload_from_string(content)
    expected = rf"gs://{bucket}/{reference.OBJECT}.*{fault}.*The columns must be date, latitude, longitude, base"
    with pytest.raises(ConfigurationError, match=expected) as raised:
        reference.ensure(stack.gcs, values, may_generate=True)
    assert "SERVICE_AREA" not in str(raised.value)


def test_a_reference_file_of_another_city_blames_the_service_area(
    stack: Stack, values: Parameters, bucket: str
) -> None:
    stack.gcs.bucket(bucket).blob(reference.OBJECT).upload_from_string(CSV.replace("40.7", "48.8"))
    with pytest.raises(ConfigurationError, match=r"60 lines and no point inside SERVICE_AREA=40\.45,.*60 outside"):
        reference.ensure(stack.gcs, values, may_generate=True)


def test_unreadable_lines_of_the_reference_file_are_counted_alike_by_loader_and_sql(
    stack: Stack, engine: LocalEngine, values: Parameters, bucket: str
) -> None:
    bad = ['"8/1/2014,40.7,-73.98,B1', '8/1/2014,"40.7,-73.9"9,B1', "8/1/2014", ' "8/1/2014" , "40.71" ,"-73.9"']
    lines = CSV.splitlines() + bad + [f'"{field}"' for field in bad[:1]] + CSV.splitlines()[:5]
    stack.gcs.bucket(bucket).blob(reference.OBJECT).upload_from_string("\n".join(lines))
    report = reference.ensure(stack.gcs, values, may_generate=False)
    assert (report.lines, report.unreadable, report.duplicates, report.used) == (70, 2, 6, 62)
    steps = [step for step in playbook.read_steps("dataset", "train", "look") if step.name < "13"]
    (counted,) = work.run(engine, steps, values, quiet)["12_reference_report"][0].to_records()
    assert counted == {
        "line_count": report.lines,
        **{name: getattr(report, name) for name in ("unreadable", "duplicates", "outside", "used", "made_up")},
    }


def test_the_playbook_refuses_an_unreadable_reference_file_without_the_loader(
    stack: Stack, engine: LocalEngine, values: Parameters, bucket: str
) -> None:
    """As the DAGs do on BigQuery."""
    stack.gcs.bucket(bucket).blob(reference.OBJECT).upload_from_string(CSV.replace(",", ";"))
    with pytest.raises(RefusedError, match=rf"More than a tenth.*gs://{bucket}/reference/uber-split2\.csv.*make bqml"):
        work.run(engine, playbook.read_steps("dataset", "train"), values, quiet)


LOADING = """
    import dataclasses, resource, sys
    from jobs.clients import make_storage_client
    from jobs.settings import load
    from jobs.zones import playbook, reference, run as work
    from jobs.zones.local import LocalEngine
    from jobs.zones.vertical import ZonesSettings

    settings = load(ZonesSettings)
    client, parameters = make_storage_client(settings), playbook.build_parameters(settings)
    steps = [step for step in playbook.read_steps("dataset", "train") if step.name < "14"]
    for bucket in sys.argv[1:]:
        values = dataclasses.replace(parameters, bucket=bucket)
        reference.ensure(client, values, may_generate=False)
        with LocalEngine(client) as engine:
            (answer,) = work.run(engine, steps, values, lambda *_: None)["13_reference_uber"]
        print(answer.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_large_reference_file_is_loaded_in_little_memory(
    stack: Stack, fresh_name: Callable[[str], str], tmp_path: Path
) -> None:
    """A month has 750,000 lines. docs/bqml_playbook.md has the figure for a whole training."""
    buckets = {fresh_name("zones"): points for points in (6_000, 200_000)}
    for bucket, points in buckets.items():
        stack.gcs.create_bucket(bucket).blob(reference.OBJECT).upload_from_string(reference.generate(points=points))
    script = tmp_path / "loading.py"
    script.write_text(textwrap.dedent(LOADING))
    done = subprocess.run(
        [sys.executable, str(script), *buckets],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    (few, before_mib), (many, after_mib) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (0.98 * 6_000, 195_999)
    assert after_mib - before_mib < 90, "as lists of texts, the lines would take 128 MiB"


def test_a_playbook_run_without_rides_names_the_remedy(engine: LocalEngine, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"No object matches gs://.*rides/processed/.*make demo"):
        whole(engine, settings)


# --- Training and scoring separately, as in Airflow -----------------------------------------------


def test_a_stored_model_scores_like_the_trained_one(
    stack: Stack, engine: LocalEngine, settings: Settings, rows: list[dict[str, Any]], bucket: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"no model gs://.*dag_zones_train"):
        work.score_locally(settings, stack.gcs, quiet)
    stack.gcs.bucket(bucket).blob("models/rides/kmeans8.json").upload_from_string('{"models": {')
    with pytest.raises(
        ConfigurationError, match=rf"gs://{bucket}/models/rides/kmeans8\.json is not a model.*dag_zones"
    ):
        work.score_locally(settings, stack.gcs, quiet)
    _, together = whole(engine, settings)
    assert work.read_revenue(engine, playbook.build_parameters(settings)) == together.revenue
    kept = work.train_locally(settings, stack.gcs, quiet)
    assert kept == f"gs://{bucket}/models/rides/kmeans8.json"
    content = json.loads(stack.gcs.bucket(bucket).blob("models/rides/kmeans8.json").download_as_bytes())
    assert len(content["models"]["rides.kmeans8"]["centroids"]) == 8
    result = work.score_locally(settings, stack.gcs, quiet)
    assert result == f"gs://{bucket}/models/rides/zones.json"
    path = Path(stack.settings.datastream_state) / "apart.json"
    path.write_bytes(stack.gcs.bucket(bucket).blob("models/rides/zones.json").download_as_bytes())
    apart = read(path)
    assert apart is not None
    assert apart.zones == together.zones
    assert apart.sample == together.sample
    figures = {(part.label, part.comfort): (part.rides, part.outside) for part in together.revenue}
    assert {(part.label, part.comfort): (part.rides, part.outside) for part in apart.revenue} == figures
    assert sum(part.revenue for part in apart.revenue) == pytest.approx(sum(p.revenue for p in together.revenue))


def test_a_result_is_written_atomically_and_read_back(tmp_path: Path) -> None:
    zones = Zones("2026-01-05T00:00:00+00:00", "here", "a file", [], [], [(1.0, 2.0, 3)])
    write(zones, tmp_path / "new" / "zones.json")
    assert read(tmp_path / "new" / "zones.json") == zones
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["zones.json"]
    assert read(tmp_path / "none.json") is None
    (tmp_path / "old.json").write_text("{}")
    assert read(tmp_path / "old.json") is None


# --- Teardown and the command line ----------------------------------------------------------------


def test_teardown_leaves_nothing_and_can_be_repeated(
    engine: LocalEngine, settings: Settings, values: Parameters, rows: list[dict[str, Any]]
) -> None:
    whole(engine, settings)
    assert engine._query_value("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'rides'") > 10
    for _ in range(2):
        work.run(engine, playbook.read_steps("teardown"), values, quiet)
        assert engine._query_value("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'rides'") == 0
    assert engine._models == {}


def test_teardown_keeps_foreign_tables_in_the_dataset(
    engine: LocalEngine, settings: Settings, values: Parameters, rows: list[dict[str, Any]]
) -> None:
    whole(engine, settings)
    engine.run("CREATE TABLE rides.somebodys AS SELECT 1 AS x", "test")
    with pytest.raises(StatementError, match="90_teardown"):
        work.run(engine, playbook.read_steps("teardown"), values, quiet)
    assert engine._query_value("SELECT x FROM rides.somebodys") == 1


def test_an_unreachable_bucket_is_reported_by_name(stack: Stack, settings: Settings) -> None:
    away = settings.model_copy(update={"gcs_bucket": "no-such-bucket"})
    with pytest.raises(DatastreamError, match=r"no-such-bucket.*GCS_BUCKET"):
        work.train_locally(away, stack.gcs, quiet)


def shape(line: str) -> str:
    """A line without the parts that differ between runs: figures, column widths, paths, and the order of zones."""
    line = re.sub(r"\S*/(report\.html|zones\.json)|gs://\S+", r"\1", line)
    line = re.sub(r"[━┃│┏┓┗┛┡┩└┘┳╇┴╋─┌┐├┤┼╈╀┬]+", " ", line)
    line = re.sub(r"\bNone\b|-?\d[\d,.:/-]*", "#", line)
    line = re.sub(ZONES, "ZONE", re.sub(r"\b(low|medium|high)\b(?= +#)", "COMFORT", line))
    return re.sub(r"\s+", " ", line).strip()


def command(settings: Settings, state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    given = {"GCS_BUCKET": settings.bucket, "GCS_PREFIX": "rides/processed/", "DATASTREAM_STATE": str(state)}
    return subprocess.run(
        [sys.executable, "-m", "jobs", "bqml", *options],
        cwd=ROOT, env=os.environ | given | {"COLUMNS": "200"}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_bqml_command_prints_steps_and_ends_with_the_revenue(
    settings: Settings, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = command(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    positions = [done.stdout.index(f"\n{step.name}  ") for step in playbook.read_steps(*playbook.USUAL)]
    assert positions == sorted(positions)
    result = read(tmp_path / "zones.json")
    assert result is not None
    table = done.stdout[done.stdout.index("┃ zone") :]
    assert f"{sum(part.revenue for part in result.revenue):,.2f} │ {RIDES:,}" in table
    for zone in result.zones:
        assert zone.label in table
    # The page of the playbook shows the printed lines, except for figures.
    page = (ROOT / "docs" / "bqml_playbook.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert block is not None
    printed = {shape(line) for line in done.stdout.splitlines()}
    shown = [line for line in block[1].splitlines() if line.strip() and "report.html" not in line]
    assert len(shown) > 100
    assert [line for line in shown if shape(line) not in printed] == []
    dry = command(settings, tmp_path / "dry", "--dry-run")
    assert dry.returncode == 0
    assert "20_kmeans8: parsed" in dry.stdout
    assert "revenue" not in dry.stdout.split("90_")[0].split("36_revenue")[0].replace("revenue_by", "")
    assert not (tmp_path / "dry" / "zones.json").exists()


def test_the_bqml_command_rejects_another_city(stack: Stack, settings: Settings, tmp_path: Path) -> None:
    put(stack.gcs, settings.bucket, "rides/processed/", ride_rows(50, city="paris"))
    done = command(settings, tmp_path, "--no-scan")
    assert done.returncode == 3
    assert "another city" in done.stderr
    assert "outside" in done.stdout.splitlines()[-3]
    assert not (tmp_path / "zones.json").exists()
