"""`make smoke-ui` on pages that look like Kibana's and Kafka-UI's: with those, no stand-in shows what it waits for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer

from infra.grafana.builder import PROMETHEUS, WAREHOUSE
from infra.local.isolation import isolated_settings
from infra.local.runner.ports import find_free
from infra.local.services.catalog import local_stack
from infra.preflight import Finding
from jobs.settings import Settings
from tests.testkit.dashboard.picture import BROWSERS
from tests.testkit.stack import guarded

pytest.importorskip("playwright", reason="`make install-ui` installs it")

from infra.docker import browser

pytestmark = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium")

LOGIN = """<form action="/app/home">
<input data-test-subj="loginUsername" name="user"><input data-test-subj="loginPassword" name="password">
<button data-test-subj="loginSubmit">Log in</button></form>"""
# 12 panels, each of which is drawn 100 ms after the one before.
DASHBOARD = """<div data-shared-items-container data-shared-items-count="12"></div><script>
const extra = EXTRA;
for (let panel = 0; panel < 12; panel++) setTimeout(() => {
  const item = document.createElement("div");
  item.setAttribute("data-shared-item", "");
  item.setAttribute("data-render-complete", "false");
  document.body.append(item);
  setTimeout(() => {
    item.innerHTML = panel == 11 ? extra : "drawn";
    item.setAttribute("data-render-complete", extra == "never" && panel == 11 ? "false" : "true");
  }, 100);
}, 100 * panel);
</script>"""
GRAFANA_LOGIN_FORM = """<form action="/home">
<input name="user"><input name="password"><button type="submit">Log in</button></form>"""
BROKERS = "<table><tr><th>Broker ID</th></tr><tr><td>1</td><td>9092</td><td>kafka</td></tr></table>"


@pytest.fixture
def check(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], list[Finding]]]:
    """Runs the checks of a site that the server stands for."""
    monkeypatch.setattr(browser, "RENDERED_MS", 4_000)
    monkeypatch.setattr(browser, "SHOWN_MS", 4_000)
    port = httpserver.port
    settings = Settings(_env_file=None, kibana_port=port, kafka_ui_port=port, airflow_port=port)  # type: ignore[call-arg]
    with browser.open_page() as page:

        def run(name: str) -> list[Finding]:
            (site,) = [site for site in browser.list_sites(settings) if site.name == name]
            return list(browser.check_site(page, site, tmp_path))

        yield run


def serve(server: HTTPServer, pages: dict[str, str]) -> None:
    for path, content in pages.items():
        server.expect_request(path).respond_with_data(content, content_type="text/html")


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("drawn", None),
        ('<b data-test-subj="embeddableError">No matching indices</b>', "No matching indices"),
        ("No results found", "1 panels show no rides"),
        ("never", "Drew 11 of 12 panels"),
    ],
)
def test_a_dashboard_is_drawn_without_an_error(
    check: Callable[[str], list[Finding]], httpserver: HTTPServer, tmp_path: Path, extra: str, fault: str | None
) -> None:
    content = DASHBOARD.replace("EXTRA", repr(extra))
    serve(httpserver, {"/": LOGIN, "/app/home": "Home", "/app/dashboards": content})
    first, sign_in, dashboard = check("Kibana")
    assert (first.fits, sign_in.text) == (True, "as elastic")
    assert dashboard.fits == (fault is None), dashboard.text
    assert (fault or "12 panels without an error") in dashboard.text
    assert (tmp_path / "kibana-dashboard-rides.png").stat().st_size


def test_the_broker_is_listed(check: Callable[[str], list[Finding]], httpserver: HTTPServer) -> None:
    serve(httpserver, {"/": "Kafka-UI", "/ui/clusters/datastream/brokers": BROKERS})
    assert [finding.fits for finding in check("Kafka-UI")] == [True, True]


@pytest.fixture
def check_observability(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], list[Finding]]]:
    """Runs the checks of a site of the profile `observability` that the server stands for."""
    for name in ("GRAFANA", "PROMETHEUS"):
        monkeypatch.setenv(f"OBSERVABILITY_{name}_PORT", str(httpserver.port))
    monkeypatch.setenv("SHOP_POSTGRES_PORT", str(*find_free(1)))
    file = tmp_path / "small.json"
    sources = {"Lag": PROMETHEUS, "Sales": WAREHOUSE}
    panels: list[dict[str, Any]] = [{"type": "row", "title": "Row"}]
    panels += [{"type": "stat", "title": title, "datasource": source} for title, source in sources.items()]
    file.write_text(json.dumps({"uid": "ds-small", "panels": panels}))
    monkeypatch.setattr(browser, "GRAFANA_DASHBOARDS", [file])
    with browser.open_page() as page:
        page.set_default_timeout(4_000)

        def run(name: str) -> list[Finding]:
            (site,) = [site for site in browser.list_observability_sites() if site.name == name]
            return list(browser.check_site(page, site, tmp_path))

        yield run


@pytest.mark.parametrize(
    ("failing", "fault"),
    [(None, None), ("Lag", "1 of 2 panels show an error"), ("Sales", None)],
)
def test_a_dashboard_of_grafana_is_drawn_without_an_error(
    check_observability: Callable[[str], list[Finding]], httpserver: HTTPServer, failing: str | None, fault: str | None
) -> None:
    """The warehouse's panels may fail: the profile shop is off."""
    icon = '<i data-testid="data-testid Panel status error"></i>'
    drawn = "".join(
        f'<section data-testid="data-testid Panel header {title}"><h2>{title}</h2>{icon * (title == failing)}</section>'
        for title in ("Lag", "Sales")
    )
    serve(httpserver, {"/": "Grafana", "/login": GRAFANA_LOGIN_FORM, "/home": "Home", "/d/ds-small": drawn})
    first, sign_in, dashboard = check_observability("Grafana")
    assert (first.fits, sign_in.text) == (True, "as admin")
    assert dashboard.fits == (fault is None), dashboard.text
    assert (fault or "2 panels without an error") in dashboard.text


def test_the_jobs_of_prometheus_are_listed(
    check_observability: Callable[[str], list[Finding]], httpserver: HTTPServer
) -> None:
    jobs = [job["job_name"] for job in yaml.safe_load(browser.PROMETHEUS.read_text())["scrape_configs"]]
    serve(httpserver, {"/": "Prometheus", "/targets": "".join(f"<p>{job}</p>" for job in jobs)})
    assert [finding.fits for finding in check_observability("Prometheus")] == [True, True]


SUPERSET_LOGIN_FORM = """<form action="/superset/welcome/">
<input id="username"><input id="password"><button type="submit">Sign in</button></form>"""
# What Superset draws instead of, or in, a chart.
SUPERSET_CHART = """<div data-test="chart-grid-component" data-test-chart-name="{name}"><div class="slice_container">
{content}</div></div>"""


@pytest.mark.parametrize(
    ("content", "fits", "text"),
    [
        ("<canvas></canvas>", True, "2 charts without an error"),
        ('<p class="ant-empty">No results</p>', True, "2 charts without an error, 1 without rows"),
        ('<p class="ant-alert-error">Data error</p>', False, "Data error"),
        ("loading", False, "Locator expected to be visible"),
    ],
)
def test_a_dashboard_of_superset_is_drawn_without_an_error(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, fits: bool, text: str
) -> None:
    files = []
    for name in ("Orders", "Revenue"):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"slice_name: {name}")
    monkeypatch.setattr(browser, "SUPERSET_CHARTS", files)
    monkeypatch.setattr(browser, "RENDERED_MS", 2_000)
    monkeypatch.setenv("SHOP_SUPERSET_PORT", str(httpserver.port))
    drawn = SUPERSET_CHART.format(name="Orders", content="<table><tr><td>1</td></tr></table>")
    dashboard = drawn + SUPERSET_CHART.format(name="Revenue", content=content)
    pages = {"/": "Superset", "/login/": SUPERSET_LOGIN_FORM, "/superset/welcome/": "Home"}
    serve(httpserver, pages | {"/superset/dashboard/sales/": dashboard})
    (site,) = browser.list_shop_sites()
    with browser.open_page() as page:
        _, sign_in, finding = browser.check_site(page, site, tmp_path)
    assert sign_in.text == "as analyst"
    assert finding.fits == fits, finding.text
    assert text in finding.text


def test_services_that_do_not_run_have_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    grafana, prometheus, superset = find_free(3)
    monkeypatch.setenv("OBSERVABILITY_GRAFANA_PORT", str(grafana))
    monkeypatch.setenv("OBSERVABILITY_PROMETHEUS_PORT", str(prometheus))
    monkeypatch.setenv("SHOP_SUPERSET_PORT", str(superset))
    assert browser.list_observability_sites() == []
    assert browser.list_shop_sites() == []


@pytest.mark.parametrize(("query", "fits"), [("", True), ("?fault=empty", False), ("?fault=html", False)])
def test_the_tables_of_the_scraped_pages_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, fits: bool
) -> None:
    monkeypatch.setattr(browser, "SETTLED_MS", 1_000)
    settings = isolated_settings()
    monkeypatch.setenv("FLIGHTS_DEPARTURES_PORT", str(settings.flights_departures_port))
    assert browser.list_flights_sites() == []
    with guarded(settings.datastream_state):
        local_stack(settings).up(["departures"])
        sites = browser.list_flights_sites()
        with browser.open_page() as page:
            for site in sites:
                opened, table = browser.check_site(page, replace(site, url=site.url + query), tmp_path)
                assert (opened.fits, table.fits) == (True, fits), table.text
    assert [site.name for site in sites] == ["Departures", "Weather"]


@pytest.mark.parametrize(("chart", "fits"), [("<rect/>", True), ("", False)])
def test_the_charts_of_a_page_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chart: str, fits: bool
) -> None:
    monkeypatch.setenv("TICKETS_OUTPUT_PATH", str(tmp_path))
    (tmp_path / "tickets.html").write_text(f"<svg><rect/></svg><svg>{chart}</svg>")
    (site,) = [site for site in browser.list_pages() if site.name == "tickets"]
    with browser.open_page() as page:
        opened, charts = browser.check_site(page, site, tmp_path)
    assert (opened.fits, charts.fits) == (True, fits), charts.text


@pytest.mark.parametrize(
    ("name", "content", "skipped"),
    [("Kibana", "This is a stand-in, not Kibana.", 2), ("Kafka-UI", '{"standin":"not Kafka-UI"}', 1)],
)
def test_a_stand_in_is_named(
    check: Callable[[str], list[Finding]], httpserver: HTTPServer, name: str, content: str, skipped: int
) -> None:
    serve(httpserver, {"/": content})
    first, *others = check(name)
    assert "a stand-in" in first.text
    assert [finding.text for finding in others] == ["skipped: stand-in"] * skipped


def test_a_page_that_fails_is_reported(check: Callable[[str], list[Finding]], httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("Kibana server is not ready yet", status=503)
    first = check("Kibana")[0]
    assert not first.fits
    assert "answers 503" in first.text
