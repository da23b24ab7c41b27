"""The playbook's files, k-means, the reference file, and SQL for BigQuery, without services."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlglot

from jobs.errors import ConfigurationError
from jobs.settings import ROOT
from jobs.zones import kmeans, playbook, reference
from jobs.zones.engine import RefusedError, StatementError
from jobs.zones.local import LocalEngine
from jobs.zones.playbook import Parameters, split_statements
from jobs.zones.run import RESULT_STEPS
from jobs.zones.vertical import ZonesSettings

VALUES = Parameters("a-project", "rides", "EU", "a-bucket", "rides/processed/", 40.45, -74.3, 41.0, -73.6)
ALL = (*playbook.USUAL, "teardown")
STATEMENTS = [
    (step.name, statement) for step in playbook.read_steps(*ALL) for statement in step.build_statements(VALUES)
]


def settings(**changes: Any) -> ZonesSettings:
    return ZonesSettings(_env_file=None, **changes)


@pytest.fixture
def engine() -> Any:
    """An engine for statements without a bucket."""
    with LocalEngine(SimpleNamespace()) as made:  # type: ignore[arg-type]
        made.run("CREATE SCHEMA rides", "test")
        yield made


# --- Files ----------------------------------------------------------------------------------------


def test_every_file_is_a_step_with_a_unique_number() -> None:
    files = sorted(path.stem for path in playbook.FOLDER.iterdir())
    assert [step.name for step in playbook.read_steps(*ALL)] == files
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", name) for name in files)
    assert len({name[:2] for name in files}) == len(files) > 20
    assert set(RESULT_STEPS) <= {step.name for step in playbook.read_steps("look")}


def test_nothing_is_deleted_without_teardown() -> None:
    assert "teardown" not in playbook.USUAL
    usual = " ".join(
        statement for step in playbook.read_steps(*playbook.USUAL) for statement in step.build_statements(VALUES)
    )
    assert not re.search(r"(?i)\b(DROP|DELETE|TRUNCATE)\b", usual)
    assert {step.name for step in playbook.read_steps("teardown")} == {"90_teardown"}


def test_teardown_deletes_everything_that_the_playbook_creates() -> None:
    creates = re.compile(r"(?:CREATE [A-Z ]*(?:TABLE|VIEW|MODEL)(?: IF NOT EXISTS)?|LOAD DATA OVERWRITE) (rides\.\w+)")
    made = {match[1] for _, text in STATEMENTS if (match := creates.match(text))}
    dropped = {match[1] for _, text in STATEMENTS if (match := re.match(r"DROP .* (rides\.\w+)$", text))}
    assert made == dropped
    assert len(made) == 13


def test_scoring_uses_only_model_and_zones_of_the_training() -> None:
    """Airflow runs training and scoring separately."""
    score = " ".join(statement for step in playbook.read_steps("score") for statement in step.build_statements(VALUES))
    made = set(re.findall(r"(?:TABLE|MERGE) (rides\.\w+)", score))
    used = set(re.findall(r"\b(rides\.[a-z]\w+)", score)) - made
    assert used == {"rides.kmeans8", "rides.zones", "rides.rides_distinct"}


@pytest.mark.parametrize(
    ("name", "statement"), STATEMENTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(STATEMENTS)]
)
def test_every_statement_parses(engine: LocalEngine, name: str, statement: str) -> None:
    assert "$" not in statement
    assert "parsed" in engine.estimate(statement)


def test_the_statements_of_the_specification_are_used() -> None:
    """The correct statements of datastream-v2.md, 6.1 to 6.3, unchanged."""
    texts = {step.name: " ".join(" ".join(step.build_statements(VALUES)).split()) for step in playbook.read_steps(*ALL)}
    model = texts["20_kmeans8"]
    assert model.startswith("CREATE OR REPLACE MODEL rides.kmeans8 OPTIONS ( MODEL_TYPE = 'KMEANS', NUM_CLUSTERS = 8,")
    assert model.endswith("AS SELECT longitude, latitude FROM rides.reference_uber")
    assert "SELECT cluster_id, comfort, SUM(price_total) AS revenue, COUNT(*) AS n" in texts["34_revenue_by_zone"]
    assert texts["34_revenue_by_zone"].endswith("GROUP BY 1, 2 ORDER BY revenue DESC")
    assert "uris = ['gs://a-bucket/rides/processed/*.parquet']" in texts["02_rides_processed_ext"]
    assert "gs://a-bucket/reference/uber-split2.csv" in texts["10_reference_raw"]


def test_no_window_is_partitioned_by_a_float() -> None:
    """sqlglot does not reject it, but BigQuery does."""
    floats = {"latitude", "longitude", "price_total", "distance", "km", "revenue"}
    for name, text in STATEMENTS:
        for keys in re.findall(r"OVER \(PARTITION BY (.*?)(?: ORDER BY .*?)?\)\s", text):
            assert not floats & set(re.findall(r"\w+", keys)), name


def test_a_step_is_repeated_for_each_k() -> None:
    (scan,) = playbook.read_steps("scan")
    texts = scan.build_statements(VALUES)
    assert [re.search(r"NUM_CLUSTERS = (\d+)", text)[1] for text in texts[::2]] == [str(k) for k in range(4, 13)]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("-- a; b\nSELECT ';' ; SELECT 2 /* ; */;\n;", ["SELECT ';'", "SELECT 2"]),
        (r"SELECT 'it\'s; fine'; SELECT `a;b`", [r"SELECT 'it\'s; fine'", "SELECT `a;b`"]),
        ("", []),
        ("-- nothing\n", []),
    ],
)
def test_statements_are_split(text: str, parts: list[str]) -> None:
    assert split_statements(text) == parts


@pytest.mark.parametrize("text", ["SELECT 1;\n", "-- what\nSELECT 1;\n", "-- what\n-- role: cook\nSELECT 1;\n"])
def test_a_file_without_a_header_is_rejected_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "01_x.sql").write_text(text)
    with pytest.raises(ConfigurationError, match=r"01_x\.sql.*role"):
        playbook.read_steps("look", folder=tmp_path)


def test_an_empty_folder_and_an_unknown_placeholder_are_rejected_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path))):
        playbook.read_steps("look", folder=tmp_path)
    (tmp_path / "01_x.sql").write_text("-- what\n-- role: look\nSELECT ${nothing};\n")
    (step,) = playbook.read_steps("look", folder=tmp_path)
    with pytest.raises(ConfigurationError, match=r"01_x\.sql.*nothing"):
        step.build_statements(VALUES)


@pytest.mark.parametrize(
    ("prefix", "expected"), [("rides/processed/", "rides/processed/"), ("/rides", "rides/"), ("a//", "a/")]
)
def test_parameters_come_from_the_settings(prefix: str, expected: str) -> None:
    values = playbook.build_parameters(settings(gcs_prefix=prefix, gcs_bucket="mine", bigquery_project="my-project"))
    assert (values.prefix, values.bucket, values.project) == (expected, "mine", "my-project")
    assert (values.south, values.west, values.north, values.east) == (40.45, -74.3, 41.0, -73.6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("GCS_BUCKET", {"gcs_bucket": "a'b"}),
        ("GCS_BUCKET", {"gcs_bucket": "a/../b"}),
        ("GCS_PREFIX", {"gcs_prefix": "rides/*/"}),
        ("GCS_PREFIX", {"gcs_prefix": "rides'); DROP"}),
        ("GCS_PREFIX", {"gcs_prefix": "/"}),  # BigQuery's * would span models and reference
        ("GCS_PREFIX", {"gcs_prefix": "models"}),
        ("GCS_PREFIX", {"gcs_prefix": "reference/"}),
        ("BIGQUERY_PROJECT", {"bigquery_project": "-"}),
    ],
)
def test_settings_that_could_break_a_statement_are_rejected(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=name):
        # As Airflow's Variables change them: not validated again.
        playbook.build_parameters(settings().model_copy(update=changes))


# --- SQL on the local engine ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (
            "SELECT * FROM ML.PREDICT(rides.kmeans8, SELECT longitude, latitude FROM t)",
            "must be MODEL",
        ),  # from the specification
        ("SELECT * FROM ML.PREDICT(rides.kmeans8, (SELECT longitude FROM t))", "must be MODEL"),
        ("SELECT * FROM ML.PREDICT(MODEL rides.kmeans8, SELECT longitude FROM t)", "must be in parentheses"),
        ("SELECT * FROM ML.PREDICT(MODEL rides.kmeans8, (SELECT 1), (SELECT 2))", "must be in parentheses"),
        ("SELECT * FROM ML.PREDICT(MODEL rides.kmeans8)", "second argument"),
        ("SELECT * FROM ML.CENTROIDS(rides.kmeans8)", "must be MODEL"),
        ("SELECT * FROM ML.CENTROIDS(MODEL)", "must be MODEL"),
        ("SELECT * FROM ML.CENTROIDS()", "must be MODEL"),
        ("SELECT * FROM ML.EVALUATE(MODEL rides.kmeans8, (SELECT 1))", "accepts only the model"),
        ("SELECT * FROM ML.FORECAST(MODEL rides.kmeans8)", "supports only ML.PREDICT"),
        ("SELECT * FROM ML.CENTROIDS(MODEL rides.kmeans8", "never closed"),
    ],
)
def test_ml_forms_that_bigquery_rejects_are_rejected(engine: LocalEngine, statement: str, why: str) -> None:
    for work in (engine.estimate, lambda text: engine.run(text, "a step")):
        with pytest.raises(StatementError, match=why):
            work(statement)


def test_sqlglot_alone_does_not_check_ml_functions() -> None:
    """ML functions are therefore handled before sqlglot: remove that when these two no longer hold."""
    sqlglot.parse_one("SELECT * FROM ML.PREDICT(rides.kmeans8, SELECT longitude, latitude FROM t)", read="bigquery")
    with pytest.raises(sqlglot.ParseError):
        sqlglot.parse_one("SELECT * FROM ML.EVALUATE(MODEL rides.kmeans8)", read="bigquery")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SELECT * FROM ML.CENTROIDS(MODEL rides.nobody)", "Not found: Model rides.nobody"),
        ("SELECT * FROM rides.nobody", "nobody"),
        ("SELECT FROM WHERE", "Syntax error"),
        ("GRANT `roles/viewer` ON SCHEMA rides TO 'user:a@b.c'", "step"),
        ("CREATE EXTERNAL TABLE rides.x OPTIONS (format = 'CSV', uris = ['gs://b/x'])", "PARQUET"),
        ("CREATE MODEL rides.m OPTIONS (MODEL_TYPE = 'LINEAR_REG') AS SELECT 1.0 AS x", "KMEANS"),
        ("CREATE MODEL rides.m OPTIONS (MODEL_TYPE = 'KMEANS', WARM_START = TRUE) AS SELECT 1.0 AS x", "WARM_START"),
        ("CREATE MODEL rides.m OPTIONS (MODEL_TYPE = 'KMEANS') AS SELECT 1.0 AS x", "SERVICE_AREA"),
        ("CREATE MODEL rides.m OPTIONS (MODEL_TYPE = 'KMEANS') AS SELECT 'a' AS x", "x is not a number"),
    ],
)
def test_statements_that_cannot_run_name_step_and_reason(engine: LocalEngine, statement: str, why: str) -> None:
    with pytest.raises(StatementError, match=why) as raised:
        engine.run(statement, "the step")
    assert str(raised.value).startswith("the step: ")


def test_a_failed_assertion_shows_its_text(engine: LocalEngine) -> None:
    assert engine.run("ASSERT (SELECT COUNT(*) = 2 FROM UNNEST([1, 2]) AS x) AS 'fine'", "step").rows is None
    with pytest.raises(RefusedError, match=r"^it isn't so$"):
        engine.run(
            r"ASSERT (SELECT COUNTIF(x > 1) <= 0.5 * COUNT(*) FROM UNNEST([1, 2, 3]) AS x) AS 'it isn\'t so'", "step"
        )


def test_sums_of_integers_are_integers(engine: LocalEngine) -> None:
    answer = engine.run("SELECT SUM(x) AS total, COUNTIF(x > 1) AS n FROM UNNEST([1, 2, 3]) AS x", "step")
    assert answer.to_records() == [{"total": 6, "n": 2}]
    assert {type(value) for value in answer.values[0]} == {int}


def test_ml_functions_can_be_nested_and_joined(engine: LocalEngine) -> None:
    points = ", ".join(f"STRUCT({x}.0 AS x)" for x in (1, 2, 11, 12, 13))
    engine.run(
        "CREATE MODEL rides.m OPTIONS (MODEL_TYPE = 'KMEANS', NUM_CLUSTERS = 2, "  # noqa: S608
        f"STANDARDIZE_FEATURES = FALSE) AS SELECT x FROM UNNEST([{points}])",
        "step",
    )
    joined = engine.run(
        "SELECT c.numerical_value AS centre, COUNT(*) AS n, MAX(p.name) AS name "  # noqa: S608
        f"FROM ML.PREDICT(MODEL `rides.m`, (SELECT x, 'kept' AS name FROM UNNEST([{points}]))) AS p "
        "JOIN ML.CENTROIDS(MODEL rides.m) AS c ON c.centroid_id = p.CENTROID_ID GROUP BY 1 ORDER BY 1",
        "step",
    )
    assert joined.to_records() == [
        {"centre": 1.5, "n": 2, "name": "kept"},
        {"centre": 12.0, "n": 3, "name": "kept"},
    ]
    nested = engine.run(
        "SELECT COUNT(*) AS n FROM ML.PREDICT(MODEL rides.m, "
        "(SELECT numerical_value AS x FROM ML.CENTROIDS(MODEL rides.m)))",
        "step",
    )
    assert nested.to_records() == [{"n": 2}]


# --- k-means --------------------------------------------------------------------------------------


def lloyd(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm until the centroids are stable."""
    for _ in range(1_000):
        labels = np.array([np.argmin([np.sum((point - centroid) ** 2) for centroid in centroids]) for point in points])
        moved = np.array([points[labels == k].mean(axis=0) for k in range(len(centroids))])
        if np.array_equal(moved, centroids):
            return moved
        centroids = moved
    raise AssertionError("it does not settle")


def distance_up_to_permutation(some: np.ndarray, others: np.ndarray) -> float:
    """The largest distance within pairs, for the best pairing of two sets of points."""
    return min(float(np.abs(some - others[list(order)]).max()) for order in itertools.permutations(range(len(others))))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("standardised", [True, False])
def test_kmeans_agrees_with_an_independent_implementation(seed: int, standardised: bool) -> None:
    rng = np.random.default_rng(seed)
    points = np.vstack([rng.normal(rng.uniform(-1, 1, 2) * (3, 1), (0.5, 0.2), (60, 2)) for _ in range(5)])
    points += (-73.9, 40.7)
    first = rng.choice(len(points), 5, replace=False)
    table = pa.table(
        {
            "longitude": points[:, 0],
            "latitude": points[:, 1],
            "is_first": [row in first for row in range(len(points))],
        }
    )
    options = {"MODEL_TYPE": "KMEANS", "NUM_CLUSTERS": 5, "KMEANS_INIT_METHOD": "CUSTOM", "KMEANS_INIT_COL": "is_first"}
    model = kmeans.train(table, options | {"STANDARDIZE_FEATURES": standardised})
    mean, scale = (points.mean(axis=0), points.std(axis=0)) if standardised else (np.zeros(2), np.ones(2))
    expected = lloyd((points - mean) / scale, ((points - mean) / scale)[first])
    assert distance_up_to_permutation(np.array(model.centroids), expected) < 1e-6
    assert distance_up_to_permutation(model.unscale_centroids(), expected * scale + mean) < 1e-6
    nearest = np.sqrt((((points - mean) / scale)[:, None] - expected) ** 2 @ np.ones(2)).min(axis=1)
    assert model.mean_squared_distance == pytest.approx(float((nearest**2).mean()), rel=1e-9)
    predicted = kmeans.predict(model, table)
    assert predicted.column_names[2:] == table.column_names, "all columns pass through"
    distances = [
        [neighbour["DISTANCE"] for neighbour in row] for row in predicted["NEAREST_CENTROIDS_DISTANCE"].to_pylist()
    ]
    assert np.array(distances)[:, 0] == pytest.approx(nearest, abs=1e-6)
    assert all(row == sorted(row) for row in distances)
    ids = predicted["CENTROID_ID"].to_pylist()
    assert set(ids) == {1, 2, 3, 4, 5}
    for row in range(0, len(points), 50):
        assert np.abs(points[row] - model.unscale_centroids()[ids[row] - 1]).max() <= 3


def test_the_davies_bouldin_index_matches_its_definition() -> None:
    """D. L. Davies, D. W. Bouldin, "A Cluster Separation Measure", IEEE PAMI 1 (1979)."""
    rng = np.random.default_rng(1)
    points = np.vstack([rng.normal(centre, 0.3, (40, 2)) for centre in ((0, 0), (3, 1), (1, 4))])
    table = pa.table({"x": points[:, 0], "y": points[:, 1]})
    model = kmeans.train(table, {"MODEL_TYPE": "KMEANS", "NUM_CLUSTERS": 3, "STANDARDIZE_FEATURES": False})
    labels = model.compute_distances(table).argmin(axis=1)
    centres = [points[labels == k].mean(axis=0) for k in range(3)]
    spread = [np.linalg.norm(points[labels == k] - centres[k], axis=1).mean() for k in range(3)]
    worst = [
        max((spread[i] + spread[j]) / np.linalg.norm(centres[i] - centres[j]) for j in range(3) if j != i)
        for i in range(3)
    ]
    assert model.davies_bouldin_index == pytest.approx(float(np.mean(worst)))


def test_the_order_of_points_does_not_change_the_model() -> None:
    rng = np.random.default_rng(2)
    table = pa.table({"x": rng.normal(size=2_000), "y": rng.normal(size=2_000)})
    options = {"MODEL_TYPE": "KMEANS", "NUM_CLUSTERS": 8, "KMEANS_INIT_METHOD": "KMEANS++"}
    shuffled = table.take(pa.array(rng.permutation(len(table))))
    assert kmeans.train(table, options).centroids == kmeans.train(shuffled, options).centroids


def test_missing_features_and_nulls_are_rejected_by_name() -> None:
    model = kmeans.train(pa.table({"x": [1.0, 2.0, 8.0]}), {"MODEL_TYPE": "KMEANS", "NUM_CLUSTERS": 2})
    with pytest.raises(StatementError, match="no column x"):
        kmeans.predict(model, pa.table({"y": [1.0]}))
    with pytest.raises(StatementError, match="x has NULLs"):
        kmeans.predict(model, pa.table({"x": [1.0, None]}))


# --- The reference file ---------------------------------------------------------------------------

LINES = [
    "8/1/2014 0:03:00,40.7366,-73.9906,B02512",
    "8/1/2014 0:09:00,40.7260,-73.9918,B02512",
    "8/1/2014 0:03:00,40.7366,-73.9906,B02512",  # an exact duplicate
    "8/1/2014 0:03:00,40.7366,-73.9906,B02617",  # same place and time, but another base: not a duplicate
    "8/1/2014 0:12:00,39.9526,-75.1652,B02512",  # Philadelphia
    "8/1/2014 0:12:00,nan,-73.99,B02512",
    "8/1/2014 0:15:00,unknown,-73.99,B02512",
    "8/1/2014 0:15:00",
]


def inspect(content: bytes) -> reference.Report:
    return reference.inspect(io.BytesIO(content), VALUES)


@pytest.mark.parametrize("header", ["date,lat,lon,ID", "Date/Time,Lat,Lon,Base", None])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("is_ended", [True, False], ids=["ended", "unended"])
@pytest.mark.parametrize("start", ["", "\ufeff", "quoted"])
def test_every_form_is_read_and_its_invalid_lines_are_counted(
    header: str | None, end: str, is_ended: bool, start: str
) -> None:
    lines = ([header] if header else []) + LINES
    if start == "quoted":
        lines = [",".join(f'"{field}"' for field in line.split(",")) for line in lines]
    text = (start if start == "\ufeff" else "") + end.join(lines) + (end if is_ended else "")
    report = inspect(text.encode())
    assert report == reference.Report(
        form=header or "no header",  # type: ignore[arg-type]
        lines=len(lines),
        unreadable=2 + bool(header),
        duplicates=1,
        outside=2,
        used=3,
        made_up=0,
        has_crlf=end == "\r\n",
        ends_with_newline=is_ended,
        first_fault=f"line {7 + bool(header)}, {lines[6 + bool(header)]!r}: its latitude is not a number",
    )
    assert report.first_fault in str(report)
    assert ("CRLF" in str(report), "no final newline" in str(report)) == (end == "\r\n", not is_ended)
    assert "GENERATED" not in str(report)


@pytest.mark.parametrize("form", ["date,lat,lon,ID", "Date/Time,Lat,Lon,Base", "no header"])
def test_the_generated_file_is_labelled_and_has_the_same_forms_and_faults(form: Any) -> None:
    content = reference.generate(form, points=1_000, has_crlf=form == "no header", ends_with_newline=True)
    assert content == reference.generate(form, points=1_000, has_crlf=form == "no header", ends_with_newline=True)
    report = inspect(content)
    assert (report.form, report.made_up, report.has_crlf) == (form, 1_000, form == "no header")
    assert (report.duplicates, report.outside, report.used) == (10, 10, 980)
    assert str(report).startswith("a GENERATED stand-in")
    rows = list(csv.reader(io.StringIO(content.decode())))[0 if form == "no header" else 1 :]
    assert Counter(row[3] for row in rows) == {"GENERATED": 1_000}


def test_an_empty_file_has_no_points() -> None:
    assert inspect(b"").used == 0


def test_an_unbalanced_quote_costs_only_its_own_line() -> None:
    lines = [f'8/1/2014 0:{minute:02d}:00,40.7366,-73.9906,"B02512"' for minute in range(50)]
    lines[10] = '"8/1/2014 0:10:00,40.7366,-73.9906,B02512'  # the coordinates can be read
    lines[20] = '8/1/2014 0:20:00,"40.7366,-73.99"06,B02512'
    report = inspect("\n".join(lines).encode())
    assert (report.lines, report.used, report.unreadable) == (50, 49, 1)
    assert report.first_fault == f"line 21, {lines[20]!r}: its longitude is not a number"


@pytest.mark.parametrize(("unreadable", "is_refused"), [(11, False), (12, True)])
def test_a_file_with_more_than_a_tenth_unreadable_is_refused(unreadable: int, is_refused: bool) -> None:
    """One more may be a header that is not known."""
    lines = unreadable * ["no,latitude,here"] + (100 - unreadable) * LINES[:1]
    assert inspect("\n".join(lines).encode()).is_refused == is_refused


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("8/1/2014;40,7366;-73,9906;B02512", "it is separated by semicolons"),
        ("8/1/2014;40.7366;-73.9906;B02512", "it is separated by semicolons"),
        ("8/1/2014\t40.7366\t-73.9906\tB02512", "it is separated by tabs"),
        ("8/1/2014|40.7366|-73.9906|B02512", "it is separated by vertical bars"),
        ("40.7366,-73.9906", "it has 2 of 4 columns"),
        ("8/1/2014,40.7366,west,B02512", "its longitude is not a number"),
        ("\x1b[2J\u202e,x,y", "its latitude is not a number"),
    ],
)
def test_the_first_unreadable_line_is_shown_with_the_reason(line: str, fault: str) -> None:
    report = inspect("\n".join([*LINES[:2], line, *LINES[:2], "another"]).encode())
    assert report.first_fault == f"line 3, {line!r}: {fault}"
    assert report.first_fault.isprintable()


def test_a_long_line_is_shown_shortened() -> None:
    assert len(inspect(b"x" * 1_000_000).first_fault) < 200


# --- The document ---------------------------------------------------------------------------------


def test_the_playbook_page_shows_the_sql_files() -> None:
    page = (ROOT / "docs" / "bqml_playbook.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- infra/bigquery/(\w+)\.sql -->\n```sql\n(.*?)```\n", page, re.DOTALL))
    assert list(shown) == ["02_rides_processed_ext", "20_kmeans8", "31_ride_zones", "34_revenue_by_zone"]
    steps = playbook.read_steps(*ALL)
    assert shown == {step.name: step.text for step in steps if step.name in shown}
    # Every file is a step of the page: by its first line in the output, by its number in the table of roles.
    titles = [f"{step.name}  {step.title}" for step in steps if step.role != "teardown"]
    assert [line for line in page.splitlines() if line in titles] == titles
    numbers = re.findall(r"(?m)^\| (\w+) \| (\d\d(?:, \d\d)*) \|", page)
    assert numbers == [(role, ", ".join(step.name[:2] for step in steps if step.role == role)) for role in ALL]
