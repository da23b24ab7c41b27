"""Superset on a filled warehouse: what init.py makes of the assets, what the analyst sees and may do."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from infra.docker import browser
from infra.local.environment import export_settings
from infra.local.runner import ports
from infra.local.runner.environment import make_base
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from infra.local.services.superset import PYTHON, make_environment, set_up
from jobs.settings import ROOT
from jobs.shop.database import ADMIN, DBT, READER, SUPERSET, SUPERSET_READER, connect
from jobs.shop.transform import run_command
from tests.testkit.superset import FOLDER, Superset, copy_folder, read_assets, run_init, start_init
from tests.testkit.warehouse import run_warehouse

pytestmark = pytest.mark.timeout(600)

CHARTS = read_assets("charts")
# Each can only come from the environment.
PASSWORDS = {
    f"shop_superset_{name}_password": f"only-in-the-environment-{name}"
    for name in ("reader", "database", "admin", "analyst")
}
# What changes at each start or visit: times, hashes of passwords with new salts, counts of logins, the log.
VOLATILE = {"changed_on", "password", "last_login", "login_count", "fail_login_count"}
UNCOMPARED = {"logs", "key_value"}
FORECAST = """
insert into marts.revenue_forecast
select current_date + day, 90000 + day, 80000, 100000, 85000, current_date - 1, now() from generate_series(0, 6) as day;
insert into marts.revenue_forecast_evaluation
select current_date - 1 - day, current_date - day, 90000, 91000, 80000 from generate_series(1, 28) as day
"""


@pytest.fixture(scope="session")
def warehouse() -> Iterator[Any]:
    """The settings of a warehouse with a month of history, its marts and a forecast."""
    with run_warehouse(**PASSWORDS) as settings:
        fill(settings)
        yield settings


def fill(settings: Any) -> None:
    environment = make_base(Paths(settings.datastream_state)) | export_settings(settings)
    history = ("--to", "postgres", "--history", "30d", "--per-day", "60", "--faulty", "0.05")
    generator = ROOT / "producer" / "shop" / "generator.py"
    subprocess.run([sys.executable, str(generator), *history], env=environment, check=True, timeout=120)
    for command in (("run", "--empty"), ("run",)):
        target = settings.datastream_state / "dbt"
        run_command(settings, command, "test", logging.getLogger(__name__).info, target).check()
    with connect(settings, DBT) as database:
        database.execute(FORECAST)


@pytest.fixture(scope="session")
def superset(warehouse: Any) -> Any:
    """The settings of a running Superset, whose first set-ups were killed."""
    for last in ("Migrating", "Importing"):
        with start_init(warehouse) as process:
            assert process.stdout
            assert any(line.startswith(last) for line in process.stdout)
            process.kill()
    set_up(warehouse)
    local_stack(warehouse).up(["superset"])
    return warehouse


@pytest.fixture(scope="session")
def analyst(superset: Any) -> Superset:
    return Superset(superset, "analyst")


def read_tables(settings: Any) -> dict[str, list[dict[str, Any]]]:
    """Every row of Superset's database."""
    with connect(settings, SUPERSET) as database:
        names = database.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        return {
            name: [row for (row,) in database.execute(f'select to_jsonb(t) from "{name}" as t').fetchall()]
            for (name,) in names
        }


def read_lasting(settings: Any) -> dict[str, list[str]]:
    """What another set-up must not change."""

    def encode(name: str, row: dict[str, Any]) -> str:
        # The importer deletes and adds the links between the dashboard and its charts.
        ignored = VOLATILE | ({"id"} if name == "dashboard_slices" else set())
        return json.dumps({key: row[key] for key in sorted(row.keys() - ignored)})

    tables = read_tables(settings)
    return {name: sorted(encode(name, row) for row in tables[name]) for name in tables.keys() - UNCOMPARED}


# --- Charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_has_rows(analyst: Superset, name: str) -> None:
    chart = CHARTS[name]
    imported = analyst.list_charts()[chart["slice_name"]]
    assert imported["form_data"]["viz_type"] == chart["viz_type"]
    dataset = int(imported["form_data"]["datasource"].removesuffix("__table"))
    rows = analyst.query(chart, dataset)
    assert rows
    assert all(any(value is not None for value in row.values()) for row in rows)


def query_by_name(analyst: Superset, name: str, **changes: Any) -> list[dict[str, Any]]:
    imported = analyst.list_charts()[CHARTS[name]["slice_name"]]
    return analyst.query(CHARTS[name], int(imported["form_data"]["datasource"].removesuffix("__table")), **changes)


def test_figures_are_those_of_the_warehouse(superset: Any, analyst: Superset) -> None:
    with connect(superset, READER) as database:
        total = database.execute(
            "select sum(revenue)::float, count(*), sum(revenue)::float / count(*) filter (where is_success), "
            "avg(is_success::int)::float from marts.fct_transactions"
        ).fetchone()
        (orders_of_a_weekday,) = database.execute(
            "select count(*) from marts.fct_transactions where extract(isodow from occurred_on) = 6"
        ).fetchone() or (0,)
    names = ("revenue", "orders", "average_order", "success_rate")
    shown = [query_by_name(analyst, name)[0][CHARTS[name]["params"]["metric"]] for name in names]
    assert list(map(float, shown)) == pytest.approx(total)
    hours = query_by_name(analyst, "orders_by_hour")
    assert sum(row["orders"] for row in hours if row["weekday"] == "6 Sat") == orders_of_a_weekday > 0


def test_filters_apply_to_charts_of_sales(analyst: Superset) -> None:
    everything = query_by_name(analyst, "status_share")
    time = {"subject": "occurred_at", "operator": "TEMPORAL_RANGE", "comparator": "2000-01-01 : 2000-01-02"}
    status = {"subject": "status", "operator": "IN", "comparator": ["failed"]}
    assert {row["status"] for row in everything} == {"success", "failed", "pending"}
    assert [row["status"] for row in query_by_name(analyst, "status_share", adhoc_filters=[status])] == ["failed"]
    assert query_by_name(analyst, "status_share", adhoc_filters=[time]) == []


def test_filters_have_the_charts_of_sales_in_their_scope(analyst: Superset) -> None:
    metadata = json.loads(analyst.call("GET", "/api/v1/dashboard/sales")["result"]["json_metadata"])
    charts = analyst.list_charts()
    of_sales = read_assets("datasets")["sales"]["uuid"]
    others = {charts[chart["slice_name"]]["id"] for chart in CHARTS.values() if chart["dataset_uuid"] != of_sales}
    filters = metadata["native_filter_configuration"]
    assert [item["name"] for item in filters] == ["Time", "Status", "Product"]
    for item in filters:
        assert set(item["scope"]["excluded"]) == others, item["name"]


# --- Rights ---------------------------------------------------------------------------------------


def test_the_analyst_reads_the_dashboard_and_nothing_else(analyst: Superset, superset: Any) -> None:
    dashboard = analyst.call("GET", "/api/v1/dashboard/sales")["result"]
    assert dashboard["published"]
    chart = next(iter(analyst.list_charts().values()))
    for method, path, body in (
        ("POST", "/api/v1/sqllab/execute/", {"database_id": 1, "sql": "select 1"}),
        ("GET", "/api/v1/sqllab/", None),
        ("PUT", f"/api/v1/chart/{chart['id']}", {"slice_name": "Mine"}),
        ("DELETE", f"/api/v1/chart/{chart['id']}", None),
        ("POST", "/api/v1/chart/", {"slice_name": "Mine", "datasource_id": 1, "datasource_type": "table"}),
        ("PUT", f"/api/v1/dashboard/{dashboard['id']}", {"dashboard_title": "Mine"}),
        ("DELETE", f"/api/v1/dashboard/{dashboard['id']}", None),
        ("POST", "/api/v1/dashboard/", {"dashboard_title": "Mine"}),
        ("GET", "/api/v1/database/", None),
        ("GET", "/api/v1/dataset/", None),
        ("POST", "/api/v1/dataset/", {"database": 1, "schema": "ops", "table_name": "dbt_results"}),
        ("GET", "/api/v1/security/users/", None),
        ("POST", "/api/v1/assets/import/", None),
    ):
        answer = analyst.change(method, path, body)
        assert answer.status_code in {403, 404}, f"{method} {path}: {answer.status_code} {answer.text[:200]}"
    # Neither a table outside its datasets, nor one inside an expression.
    admin = Superset(superset, "admin")
    other = admin.change(
        "POST", "/api/v1/dataset/", {"database": 1, "schema": "ops", "table_name": "dbt_results", "owners": []}
    )
    assert other.status_code == 201, other.text
    query = {"columns": ["status"], "metrics": [], "row_limit": 1}
    body = {"datasource": {"id": other.json()["id"], "type": "table"}, "queries": [query]}
    assert admin.request("POST", "/api/v1/chart/data", body).status_code == 200
    assert analyst.request("POST", "/api/v1/chart/data", body).status_code == 403
    metric = {"expressionType": "SQL", "sqlExpression": "(select count(*) from ops.dbt_results)", "label": "n"}
    with pytest.raises(AssertionError, match=r"[Ss]ub-?quer"):
        query_by_name(analyst, "revenue", metric=metric)


def test_the_connection_cannot_write(superset: Any) -> None:
    with connect(superset, SUPERSET_READER) as database, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        database.execute("delete from marts.fct_transactions")


def test_nobody_sees_anything_without_signing_in(superset: Any) -> None:
    nobody = Superset(superset, None)
    for path in ("/api/v1/dashboard/sales", "/api/v1/dashboard/", "/api/v1/chart/"):
        assert nobody.request("GET", path).status_code in {401, 404}, path
    assert "/login/" in nobody.request("GET", "/superset/dashboard/sales/").url


# --- Set-up ---------------------------------------------------------------------------------------


def test_a_second_set_up_changes_nothing(superset: Any) -> None:
    before = read_lasting(superset)
    code, output = run_init(superset)
    assert code == 0, output
    assert "Imported databases 1, datasets 6, charts 14, dashboards 1." in output
    assert read_lasting(superset) == before


def test_no_password_is_in_its_database(superset: Any) -> None:
    text = json.dumps(read_tables(superset), default=str)
    assert len(text) > 100_000
    for secret in (*PASSWORDS.values(), make_environment(superset)["SHOP_SUPERSET_SECRET_KEY"]):
        assert secret not in text
    (database,) = [row for row in read_tables(superset)["dbs"] if row["database_name"] == "Warehouse"]
    address = f"127.0.0.1:{superset.shop_postgres_port}"
    assert database["sqlalchemy_uri"] == f"postgresql+psycopg2://superset_ro@{address}/data_warehouse"
    assert database["password"] is None
    assert database["encrypted_extra"] is None


def test_a_changed_file_changes_superset(superset: Any, analyst: Superset, tmp_path: Path) -> None:
    folder = copy_folder(tmp_path)
    for path, changes in (
        ("charts/orders.yaml", {"slice_name": "Number of orders"}),
        ("dashboards/sales.yaml", {"dashboard_title": "Sales of the shop"}),
    ):
        file = folder / "assets" / path
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    code, output = run_init(superset, folder)
    assert code == 0, output
    assert "Number of orders" in analyst.list_charts()
    assert analyst.call("GET", "/api/v1/dashboard/sales")["result"]["dashboard_title"] == "Sales of the shop"
    # What somebody has changed in Superset is overwritten, as are passwords.
    with connect(superset, SUPERSET) as database:
        database.execute("update slices set params = '{}'")
    changed = superset.model_copy(update={"shop_superset_analyst_password": "another"})
    assert run_init(changed)[0] == 0
    assert set(analyst.list_charts()) == {chart["slice_name"] for chart in CHARTS.values()}
    assert query_by_name(analyst, "orders")
    Superset(changed, "analyst")
    with pytest.raises(AssertionError, match="401"):
        Superset(superset, "analyst")
    set_up(superset)


@pytest.mark.parametrize(
    ("removed", "unknown", "fault"),
    [(True, False, "has the chart .*302 0 times"), (False, True, "has the chart 00000000-.* 1 times")],
)
def test_an_incomplete_dashboard_is_refused(
    superset: Any, analyst: Superset, tmp_path: Path, removed: bool, unknown: bool, fault: str
) -> None:
    folder = copy_folder(tmp_path)
    file = folder / "assets" / "dashboards" / "sales.yaml"
    dashboard = yaml.safe_load(file.read_text()) | {"dashboard_title": "Incomplete"}
    if removed:
        del dashboard["position"]["CHART-2"]
    if unknown:
        dashboard["position"]["CHART-2"]["meta"]["uuid"] = "00000000-0000-4000-8000-000000000000"
    file.write_text(yaml.safe_dump(dashboard))
    code, output = run_init(superset, folder)
    assert code == 3, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "is not complete, nothing was changed" in error
    assert re.search(fault, error), error
    assert analyst.call("GET", "/api/v1/dashboard/sales")["result"]["dashboard_title"] == "Sales"
    assert len(analyst.list_charts()) == len(CHARTS)


# --- Bad input ------------------------------------------------------------------------------------


def test_a_missing_driver_is_named(superset: Any) -> None:
    # This interpreter has no psycopg2.
    command = [sys.executable, str(FOLDER / "init.py")]
    environment = make_base(Paths(superset.datastream_state)) | make_environment(superset)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("error: This environment has no driver for PostgreSQL")
    assert "Traceback" not in done.stderr


def test_a_missing_key_is_named(superset: Any) -> None:
    code, output = run_init(superset, SHOP_SUPERSET_SECRET_KEY="")
    assert code != 0
    assert "error: SHOP_SUPERSET_SECRET_KEY is empty" in output
    assert "Traceback" not in output


def test_another_key_is_refused_until_the_secrets_are_encrypted_again(superset: Any) -> None:
    admin = Superset(superset, "admin")
    address = f"127.0.0.1:{superset.shop_postgres_port}"
    body = {
        "database_name": "Other",
        "sqlalchemy_uri": f"postgresql+psycopg2://superset_ro@{address}/data_warehouse",
        "masked_encrypted_extra": '{"connect_args": {"application_name": "a secret that somebody has added"}}',
    }
    added = admin.change("POST", "/api/v1/database/", body)
    assert added.status_code == 201, added.text
    old = make_environment(superset)["SHOP_SUPERSET_SECRET_KEY"]
    new = {"SHOP_SUPERSET_SECRET_KEY": f"another-{old}"}
    before = read_lasting(superset)
    code, output = run_init(superset, **new)
    assert code == 3
    assert "error: Superset's database has secrets that another SHOP_SUPERSET_SECRET_KEY has encrypted" in output
    assert "Traceback" not in output
    assert read_lasting(superset) == before

    previous = "SHOP_SUPERSET_PREVIOUS_SECRET_KEY"
    assert run_init(superset, **new, **{previous: "neither"})[0] == 3
    assert read_lasting(superset) == before
    assert run_init(superset, **new, **{previous: old})[0] == 0
    assert run_init(superset, **new)[0] == 0
    assert run_init(superset, **{previous: new["SHOP_SUPERSET_SECRET_KEY"]})[0] == 0
    shown = admin.call("GET", f"/api/v1/database/{added.json()['id']}/connection")["result"]
    assert "a secret that somebody has added" in shown["masked_encrypted_extra"]
    assert admin.change("DELETE", f"/api/v1/database/{added.json()['id']}").ok


def test_a_warehouse_that_does_not_answer_is_named(superset: Any) -> None:
    (port,) = ports.find_free(1)
    code, output = run_init(superset, SHOP_POSTGRES_PORT=str(port))
    assert code == 3
    assert f"error: PostgreSQL at 127.0.0.1:{port} does not answer: " in output


def test_a_wrong_password_is_named(superset: Any) -> None:
    # Without Docker, the server asks only its administrator for a password.
    code = f"""
import init
try:
    with init.connect("{ADMIN}", "postgres", "SHOP_SUPERSET_DATABASE_PASSWORD"):
        pass
except init.SetUpError as error:
    print(error)
"""
    environment = make_base(Paths(superset.datastream_state)) | make_environment(superset) | {"PYTHONPATH": str(FOLDER)}
    done = subprocess.run([PYTHON, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert f"rejects {ADMIN}: " in done.stdout
    assert "SHOP_SUPERSET_DATABASE_PASSWORD must be the one in .env" in done.stdout
    assert PASSWORDS["shop_superset_database_password"] not in done.stdout


def test_a_warehouse_without_marts_is_an_error_only_without_docker(
    superset: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(superset, DBT) as database:
        database.execute("alter table marts.dim_customers rename to hidden")
    try:
        with pytest.raises(ServiceFailedError):
            set_up(superset)
        assert (
            "error: The warehouse does not have marts.dim_customers. Run make shop-demo first" in capfd.readouterr().err
        )
        code, output = run_init(superset)
        assert code == 0
        assert "warning: The warehouse does not have marts.dim_customers." in output
    finally:
        with connect(superset, DBT) as database:
            database.execute("alter table marts.hidden rename to dim_customers")


# --- In a browser ---------------------------------------------------------------------------------


def test_the_dashboard_is_drawn(superset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SUPERSET_PORT", str(superset.shop_superset_port))
    monkeypatch.setenv("SHOP_SUPERSET_ANALYST_PASSWORD", superset.shop_superset_analyst_password)
    (site,) = browser.list_shop_sites()
    answered = []
    with browser.open_page() as page:
        page.on("requestfinished", lambda request: answered.append(request.url))
        findings = list(browser.check_site(page, site, tmp_path))
    assert [finding.text for finding in findings if not finding.fits] == []
    assert findings[-1].text == f"{len(CHARTS)} charts without an error"
    assert {url for url in answered if not url.startswith((site.url, "data:", "blob:"))} == set(), "only its own server"
    picture = tmp_path / "superset-dashboard-sales.png"
    assert picture.stat().st_size > 50_000
