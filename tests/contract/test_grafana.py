"""Rules for Grafana's dashboards, which it provisions from files."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.grafana.builder import Sql
from infra.grafana.catalog import DASHBOARDS, FOLDER
from infra.postgres import FILES as SQL_FILES
from jobs.settings import ROOT
from jobs.shop.database import DATABASE, GRAFANA

PROVISIONING = FOLDER.parent / "provisioning"
FILES = sorted(FOLDER.iterdir())
# Of the data sources in infra/grafana/provisioning/datasources.
TYPES = {
    "prometheus": "prometheus",
    "elasticsearch": "elasticsearch",
    "warehouse": "grafana-postgresql-datasource",
}


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def list_panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


EVERY_DASHBOARD = pytest.mark.parametrize(
    "dashboard", [load(path) for path in FILES], ids=[path.stem for path in FILES]
)
EVERY_PANEL = pytest.mark.parametrize(
    "panel",
    [pytest.param(panel, id=f"{path.stem}-{panel['title']}") for path in FILES for panel in list_panels(load(path))],
)


def test_every_file_is_of_a_declared_dashboard() -> None:
    assert {path.name for path in FILES} == {f"{dashboard.name}.json" for dashboard in DASHBOARDS}
    assert len({load(path)["uid"] for path in FILES}) == len(FILES)


@EVERY_DASHBOARD
def test_a_dashboard_can_be_provisioned(dashboard: dict[str, Any]) -> None:
    """Grafana refuses schema 2 in files (grafana#122663), and shows nothing for a data source that it does not know."""
    assert dashboard["id"] is None
    assert re.fullmatch(r"ds-[a-z]{1,37}", dashboard["uid"])
    assert dashboard["schemaVersion"] <= 42
    assert not {"__inputs", "__requires", "__elements"} & dashboard.keys()
    assert "${DS_" not in json.dumps(dashboard)
    assert (dashboard["time"]["from"], dashboard["refresh"]) == ("now-1h", "30s")
    assert "datastream" in dashboard["tags"]
    assert dashboard["title"]
    assert dashboard["description"]


@EVERY_DASHBOARD
def test_a_dashboard_links_to_the_others_and_to_airflow_and_kibana(dashboard: dict[str, Any]) -> None:
    assert [link["tags"] for link in dashboard["links"] if link["type"] == "dashboards"] == [["datastream"]]
    assert {"Airflow", "Kibana"} <= {link["title"] for link in dashboard["links"]}


@EVERY_DASHBOARD
def test_panels_have_distinct_ids_and_titles_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    for names in ([panel["id"] for panel in panels], [panel["title"] for panel in panels]):
        assert [name for name, count in Counter(names).items() if count > 1] == []
    cells: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells.update(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
    assert max(cells.values()) == 1


@EVERY_PANEL
def test_a_panel_says_what_it_shows_and_what_it_means_if_it_is_empty(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert defaults["noValue"].endswith(".")
    assert defaults["unit"]
    starts = [step["value"] for step in defaults["thresholds"]["steps"]]
    assert starts[0] is None
    assert starts[1:] == sorted(starts[1:])


@EVERY_PANEL
def test_each_query_names_its_data_source(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert TYPES[target["datasource"]["uid"]] == target["datasource"]["type"]
        assert target["datasource"] == panel["datasource"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_few_panels_need_more_than_a_running_stack() -> None:
    """The panel test cannot see these; the test of the Docker stack runs those of Docker, the shop's test its own."""
    panels = {
        (dashboard.name, panel.title): {query.needs for query in panel.queries if not isinstance(query, Sql)}
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
    }
    assert {name: needs for name, needs in panels.items() if needs and "" not in needs} == {
        ("data", "Failed tests of dbt"): {"dbt"},
        ("data", "Shop: nodes of dbt by status"): {"dbt"},
        ("services", "Share of the memory limit"): {"docker"},
    }


@EVERY_DASHBOARD
def test_only_declared_variables_are_used(dashboard: dict[str, Any]) -> None:
    declared = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert {name for name in used if not name.startswith("__")} == declared


def test_the_data_source_of_the_rides_may_only_read_them() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "elasticsearch.yml").read_text())["datasources"]
    assert (source["uid"], source["type"]) == ("elasticsearch", "elasticsearch")
    assert source["basicAuthUser"] == "datastream_reader"
    assert source["editable"] is False
    fields = {
        aggregation["field"]
        for path in FILES
        for panel in list_panels(load(path))
        for target in panel["targets"]
        for aggregation in target.get("bucketAggs", [])
        if aggregation["type"] == "date_histogram"
    }
    assert fields == {source["jsonData"]["timeField"]}


def test_what_the_warehouse_answers_needs_the_shop() -> None:
    queries = [query for dashboard in DASHBOARDS for panel in dashboard.panels for query in panel.queries]
    assert {isinstance(query, Sql) for query in queries if query.needs == "shop"} == {True}
    assert {query.needs for query in queries if isinstance(query, Sql)} == {"shop"}


def test_the_data_source_of_the_warehouse_only_reads_within_the_limit_of_its_role() -> None:
    text = (PROVISIONING / "datasources" / "warehouse.yml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]
    assert (source["uid"], source["type"], source["editable"]) == ("warehouse", TYPES["warehouse"], False)
    assert (source["user"], source["jsonData"]["database"]) == (GRAFANA, DATABASE)
    rules = "".join(file.read_text() for file in SQL_FILES)
    (limit,) = re.findall(rf"alter role {GRAFANA} connection limit (\d+);", rules)
    # A data source that was changed opens new connections before the old ones end.
    assert 0 < source["jsonData"]["maxOpenConns"] < int(limit)
    assert f"alter role {GRAFANA} set default_transaction_read_only = on;" in rules
    compose = yaml.safe_load((ROOT / "infra" / "compose" / "observability.yml").read_text())
    service = compose["services"]["grafana"]
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= service["environment"].keys()
    assert "warehouse" in service["networks"]
