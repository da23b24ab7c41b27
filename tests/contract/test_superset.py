"""Rules for Superset's assets and settings, checked without Superset."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import sqlglot
import yaml
from sqlalchemy.engine.url import make_url
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

from jobs.settings import ROOT
from jobs.shop.database import SUPERSET, SUPERSET_READER
from tests.contract.test_compose import default, environment_of, mib, read_services
from tests.testkit.superset import ASSETS, FOLDER, make_query, read_assets

FILES = sorted(ASSETS.rglob("*.yaml"))
DATABASES, DATASETS, CHARTS, DASHBOARDS = map(read_assets, ("databases", "datasets", "charts", "dashboards"))
MARTS = ROOT / "jobs" / "shop" / "dbt" / "models" / "marts"
# Of Superset 6.1. The names without echarts_ and _v2 are of older versions.
VIZ_TYPES = {
    "big_number", "big_number_total", "box_plot", "echarts_area", "echarts_timeseries_bar", "echarts_timeseries_line",
    "echarts_timeseries_scatter", "echarts_timeseries_smooth", "echarts_timeseries_step", "funnel", "gauge_chart",
    "heatmap_v2", "histogram_v2", "mixed_timeseries", "pie", "pivot_table_v2", "table", "treemap_v2", "waterfall",
}  # fmt: skip
COLUMNS = 12  # of the dashboard's grid
PROFILE = read_services(ROOT / "infra" / "compose" / "bi.yml")
KEY = "SHOP_SUPERSET_SECRET_KEY"

EVERY_DATASET = pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
EVERY_CHART = pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)


def list_tables() -> dict[str, dict[str, str]]:
    """The columns of each mart with their types: of dbt's contracts, and of infra/postgres."""
    models = yaml.safe_load((MARTS / "_marts__models.yml").read_text())["models"]
    tables = {model["name"]: {it["name"]: it["data_type"] for it in model["columns"]} for model in models}
    schemas = (ROOT / "infra" / "postgres" / "20_schemas.sql").read_text()
    for statement in re.findall(r"create table if not exists marts\..*?;", schemas, re.DOTALL):
        table = sqlglot.parse_one(statement, dialect="postgres")
        definitions = table.find_all(exp.ColumnDef)
        tables[table.find(exp.Table).name] = {it.name: it.kind.sql("postgres").lower() for it in definitions}
    return tables


TABLES = list_tables()


def find_type(name: str) -> str:
    """One spelling of a type."""
    return exp.DataType.build(name, dialect="postgres").sql("postgres")


def list_columns(expression: str) -> set[str]:
    return {column.name for column in sqlglot.parse_one(expression, dialect="postgres").find_all(exp.Column)}


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ASSETS)) for file in FILES])
def test_a_file_can_be_imported(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert content["version"] == "1.0.0"
    # The importer changes scopes of filters in place: one by an anchor would be changed twice.
    assert not [token for token in yaml.scan(file.read_text()) if isinstance(token, yaml.AliasToken)]
    if file.name == "metadata.yaml":
        assert content["type"] == "assets"
    else:
        assert str(UUID(content["uuid"])) == content["uuid"]


def test_uuids_are_unique_and_links_resolve() -> None:
    everything = [*DATABASES.values(), *DATASETS.values(), *CHARTS.values(), *DASHBOARDS.values()]
    assert len({asset["uuid"] for asset in everything}) == len(everything) == len(FILES) - 1
    assert {dataset["database_uuid"] for dataset in DATASETS.values()} == {DATABASES["Warehouse"]["uuid"]}
    assert {chart["dataset_uuid"] for chart in CHARTS.values()} == {dataset["uuid"] for dataset in DATASETS.values()}
    assert len({chart["slice_name"] for chart in CHARTS.values()}) == len(CHARTS)


def test_no_password_is_in_a_file() -> None:
    (database,) = DATABASES.values()
    address = urlsplit(database["sqlalchemy_uri"])
    assert (address.username, address.password, address.path) == (SUPERSET_READER, None, "/data_warehouse")
    assert {key for key in database if re.search("password|secret|encrypted|tunnel", key)} == set()
    assert not any(database[right] for right in ("allow_dml", "allow_ctas", "allow_cvas", "expose_in_sqllab"))
    for file in FILES:
        assert not re.search(r"(?i)(password|secret|token)\s*[:=]", file.read_text()), file


# --- Datasets and charts --------------------------------------------------------------------------


@EVERY_DATASET
def test_a_dataset_has_the_columns_of_its_mart(dataset: dict[str, Any]) -> None:
    assert dataset["schema"] == "marts"
    own = {column["column_name"]: column["type"] for column in dataset["columns"] if "expression" not in column}
    if "sql" in dataset:
        # Fails at a column that no table has.
        query = qualify(
            sqlglot.parse_one(dataset["sql"], dialect="postgres"), schema={"marts": TABLES}, dialect="postgres"
        )
        tables = {table.alias: TABLES[table.name] for table in query.find_all(exp.Table)}
        wanted = {it.alias: tables[it.this.table][it.this.name] for it in query.selects}
    else:
        wanted = TABLES[dataset["table_name"]]
    assert {name: find_type(kind) for name, kind in own.items()} == {
        name: find_type(kind) for name, kind in wanted.items()
    }
    times = {name for name, kind in wanted.items() if find_type(kind) in {"DATE", "TIMESTAMPTZ"}}
    assert {column["column_name"] for column in dataset["columns"] if column.get("is_dttm")} == times
    assert dataset.get("main_dttm_col", "") in {*times, ""}


@EVERY_DATASET
def test_expressions_use_columns_of_their_dataset(dataset: dict[str, Any]) -> None:
    names = {column["column_name"] for column in dataset["columns"]}
    for part in (*dataset["columns"], *dataset["metrics"]):
        assert list_columns(part.get("expression", "1")) <= names, part


@EVERY_CHART
def test_a_chart_uses_columns_and_metrics_of_its_dataset(chart: dict[str, Any]) -> None:
    assert chart["viz_type"] in VIZ_TYPES
    assert chart["params"]["viz_type"] == chart["viz_type"]
    (dataset,) = [dataset for dataset in DATASETS.values() if dataset["uuid"] == chart["dataset_uuid"]]
    names = {column["column_name"] for column in dataset["columns"]}
    metrics = {metric["metric_name"] for metric in dataset["metrics"]}
    query = make_query(chart)
    columns = {it if isinstance(it, str) else it["sqlExpression"] for it in query["columns"]}
    columns |= {filter_["col"] for filter_ in query["filters"]}
    columns |= {json.loads(order)[0] for order in chart["params"].get("order_by_cols", [])}
    assert columns <= names
    sorting = {chart["params"].get(key) for key in ("timeseries_limit_metric", "x_axis_sort")} - {None}
    assert {*(query["metrics"] or []), *sorting} <= metrics
    assert columns or query["metrics"]


def test_dbt_knows_what_the_dashboard_reads() -> None:
    exposures = yaml.safe_load((MARTS / "_marts__exposures.yml").read_text())["exposures"]
    (ours,) = [exposure for exposure in exposures if exposure["name"] == "superset_sales"]
    used = {dataset["table_name"] for dataset in DATASETS.values() if "sql" not in dataset}
    for dataset in (dataset for dataset in DATASETS.values() if "sql" in dataset):
        used |= {table.name for table in sqlglot.parse_one(dataset["sql"], dialect="postgres").find_all(exp.Table)}
    models = {path.stem for path in MARTS.glob("*.sql")}
    references = {f"ref('{name}')" if name in models else f"source('forecast', '{name}')" for name in used}
    assert set(ours["depends_on"]) == references


# --- The dashboard --------------------------------------------------------------------------------


def test_each_chart_is_on_the_dashboard_once() -> None:
    (dashboard,) = DASHBOARDS.values()
    assert (dashboard["slug"], dashboard["published"]) == ("sales", True)
    items = {key: item for key, item in dashboard["position"].items() if isinstance(item, dict)}
    placed = [item["meta"] for item in items.values() if item["type"] == "CHART"]
    names = {chart["uuid"]: chart["slice_name"] for chart in CHARTS.values()}
    assert Counter(meta["uuid"] for meta in placed) == Counter(names.keys())
    assert all(meta["sliceName"] == names[meta["uuid"]] for meta in placed)
    assert len({meta["chartId"] for meta in placed}) == len(placed)
    for key, item in items.items():
        assert item["id"] == key
        for child in item.get("children", []):
            assert items[child]["parents"] == [*item.get("parents", []), key], child
    for row in (item for item in items.values() if item["type"] == "ROW"):
        assert sum(items[child]["meta"]["width"] for child in row["children"]) <= COLUMNS, row["id"]


def test_filters_apply_to_every_chart_of_sales() -> None:
    (dashboard,) = DASHBOARDS.values()
    sales = DATASETS["sales"]
    of_sales = {chart["uuid"] for chart in CHARTS.values() if chart["dataset_uuid"] == sales["uuid"]}
    placed = [it["meta"] for it in dashboard["position"].values() if isinstance(it, dict) and it["type"] == "CHART"]
    others = {meta["chartId"] for meta in placed if meta["uuid"] not in of_sales}
    filters = dashboard["metadata"]["native_filter_configuration"]
    assert [item["filterType"] for item in filters] == ["filter_time", "filter_select", "filter_select"]
    for item in filters:
        assert set(item["scope"]["excluded"]) == others
        for target in filter(None, item["targets"]):
            assert target["datasetUuid"] == sales["uuid"]
            assert target["column"]["name"] in {column["column_name"] for column in sales["columns"]}
    for chart in (chart for chart in CHARTS.values() if chart["uuid"] in of_sales):
        assert [it["operator"] for it in chart["params"]["adhoc_filters"]] == ["TEMPORAL_RANGE"], chart["slice_name"]


# --- Settings and containers ----------------------------------------------------------------------


def load_settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    wanted = {
        KEY: "encrypts",
        "SHOP_SUPERSET_DATABASE_PASSWORD": "of-the-database",
        "SHOP_SUPERSET_READER_PASSWORD": "of-the-reader",
        "SHOP_POSTGRES_HOST": "warehouse",
        "SHOP_POSTGRES_PORT": "5433",
        **variables,
    }
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(FOLDER / "superset_config.py"))


def test_settings_are_those_of_production(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(monkeypatch)
    assert settings["SECRET_KEY"].startswith("encrypts")
    url = f"postgresql+psycopg2://{SUPERSET}:of-the-database@warehouse:5433/{SUPERSET}"
    assert settings["SQLALCHEMY_DATABASE_URI"] == url
    assert settings["SESSION_COOKIE_SAMESITE"] == "Lax"
    assert settings["PUBLIC_ROLE_LIKE"] is None
    for name in (
        "PREVENT_UNSAFE_DB_CONNECTIONS", "RATELIMIT_ENABLED", "SESSION_COOKIE_HTTPONLY", "TALISMAN_ENABLED",
        "WTF_CSRF_ENABLED",
    ):  # fmt: skip
        assert settings[name] is True, name
    assert settings["AUTH_USER_REGISTRATION"] is False
    assert not re.search("redis|celery", " ".join(settings).lower())
    policy = json.dumps(settings["TALISMAN_CONFIG"]["content_security_policy"])
    assert "." not in policy, "no server on the Internet"


def test_only_the_warehouse_gets_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    read_password = load_settings(monkeypatch)["SQLALCHEMY_CUSTOM_PASSWORD_STORE"]
    assert read_password(make_url(DATABASES["Warehouse"]["sqlalchemy_uri"])) == "of-the-reader"
    assert read_password(make_url("postgresql://another@warehouse/data_warehouse")) is None


@pytest.mark.parametrize("name", [KEY, "SHOP_SUPERSET_DATABASE_PASSWORD"])
def test_a_missing_secret_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {name} is empty"):
        load_settings(monkeypatch, **{name: ""})


def test_the_image_has_the_version_of_the_package() -> None:
    requirements = (ROOT / "requirements" / "superset.txt").read_text()
    (version,) = re.findall(r"(?m)^apache-superset==(\S+)", requirements)
    assert re.search(r"(?m)^psycopg2-binary==", requirements)
    assert f"FROM apache/superset:{version}\n" in (FOLDER / "Dockerfile").read_text()
    assert {service["image"] for service in PROFILE.values()} == {f"datastream-superset:{version}"}


def test_containers_have_what_they_need_and_no_more() -> None:
    assert set(PROFILE) == {"superset", "superset-init"}
    shared = {KEY, "SHOP_SUPERSET_DATABASE_PASSWORD", "SHOP_SUPERSET_READER_PASSWORD"}
    users = {"SHOP_SUPERSET_ADMIN_PASSWORD", "SHOP_SUPERSET_ANALYST_PASSWORD"}
    for name, wanted in (("superset", shared), ("superset-init", shared | users)):
        service = PROFILE[name]
        variables = environment_of(service)
        assert {key for key in variables if re.search("PASSWORD|SECRET", key)} == wanted, name
        assert variables["SUPERSET_CONFIG_PATH"] == "/etc/datastream/superset_config.py"
        assert mib(default(service["mem_limit"])) <= 700
        assert service["cap_drop"] == ["ALL"]
        assert service["networks"] == ["warehouse"]
    # The profile starts the warehouse, and the set-up comes before the server.
    shop = read_services(ROOT / "infra" / "compose" / "shop.yml")
    assert {name for name, service in shop.items() if "bi" in service["profiles"]} == {"warehouse", "warehouse-init"}
    assert set(PROFILE["superset"]["depends_on"]) == {"superset-init"}
    assert set(PROFILE["superset-init"]["depends_on"]) == {"warehouse-init"}
