"""Open the pages of the running stack in a headless browser, as a user does: `make smoke-ui`.

Each page is saved as a picture in DATASTREAM_STATE/screenshots. A stand-in for Kibana, Kafka-UI or Grafana, as in an
environment without their images, says so on its first page; what it cannot answer is reported as skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from playwright.sync_api import Error, Page, ViewportSize, expect, sync_playwright
from playwright.sync_api import TimeoutError as WaitError

from infra.grafana.builder import WAREHOUSE
from infra.kibana.saved_objects import Key, SavedObject, key, objects_folder, read
from infra.local.runner.ports import is_free
from infra.preflight import Finding, show
from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.flights.vertical import FlightsSettings
from jobs.observability.vertical import ObservabilitySettings
from jobs.settings import ROOT, Settings, load
from jobs.shop.vertical import ShopSettings
from jobs.terminal import make_console, print_error
from jobs.verticals import find_verticals

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE: ViewportSize = {"width": 1440, "height": 2200}  # px; all panels of a dashboard are visible, and so are drawn
SHOWN_MS = 60_000
RENDERED_MS = 180_000
SETTLED_MS = 10_000  # a page that refreshes itself may never stop loading
CLUSTER = "datastream"
DAGS = ROOT / "airflow" / "dags"
PROMETHEUS = ROOT / "infra" / "prometheus" / "prometheus.yml"
SUPERSET_CHARTS = sorted((ROOT / "infra" / "superset" / "assets" / "charts").glob("*.yaml"))
GRAFANA_DASHBOARDS = sorted((ROOT / "infra" / "grafana" / "dashboards").glob("*.json"))
_DAG_ID = re.compile(r'dag_id="(\w+)"')
# How Grafana marks a panel whose query failed.
_GRAFANA_FAULT = "data-testid Panel status error"

# The attributes by which Kibana's own reports see that a panel is drawn, and how it marks panels that failed.
_PANEL = "[data-shared-item]"
_RENDERED = f'{_PANEL}[data-render-complete="true"]'
_UNFINISHED = f'{_PANEL}:not([data-render-complete="true"])'
_FAULTS = ", ".join(
    [
        "[data-render-error]",
        '[data-test-subj="embeddableError"]',
        '[data-test-subj="embeddable-lens-failure"]',
        '[data-test-subj="control-frame-error"]',
        ".euiToast--danger",
    ]
)

_SUPERSET_CHART = '[data-test="chart-grid-component"]'
_SUPERSET_FAULT = ".ant-alert-error"
_SUPERSET_EMPTY = ".ant-empty"
_SUPERSET_DONE = f".slice_container :is(canvas, table, .header-line), {_SUPERSET_FAULT}, {_SUPERSET_EMPTY}"


@dataclass(frozen=True)
class Site:
    """The pages of one service: a first page, then checks in this order, each of which returns what it found."""

    name: str
    url: str
    checks: dict[str, Callable[[Page, Site], str]]
    standin: str = ""  # what the first page of a stand-in says
    login: tuple[str, str] = field(default=("", ""), repr=False)


def list_pages() -> list[Site]:
    """The pages that verticals have written, as files."""
    pages = {
        vertical.name: Path(getattr(load(vertical.settings), vertical.page))
        for vertical in find_verticals()
        if vertical.page
    }
    return [Site(name, page.as_uri(), {"charts": check_charts}) for name, page in pages.items() if page.exists()]


def check_charts(page: Page, site: Site) -> str:
    """Every chart of a page has shapes."""
    charts = page.locator("svg")
    empty = [number for number in range(charts.count()) if not charts.nth(number).locator("rect").count()]
    if empty or not charts.count():
        raise ServiceUnavailableError(f"{len(empty)} of {charts.count()} charts are empty.")
    return f"{charts.count()} drawn"


def list_sites(settings: Settings) -> list[Site]:
    has_logs = not is_free(load(ShopSettings).shop_postgres_port)  # they come with the profile `shop`
    dashboards = [
        vertical.dashboard
        for vertical in find_verticals()
        if vertical.dashboard and (has_logs or vertical.name != "shop")
    ]
    return [
        Site(
            "Airflow",
            f"http://localhost:{settings.airflow_port}",
            {"sign-in": sign_in_to_airflow, "DAGs": check_dags},
            login=(settings.airflow_user, settings.airflow_password),
        ),
        Site(
            "Kafka-UI",
            f"http://localhost:{settings.kafka_ui_port}",
            {"broker": check_broker},
            standin='"standin":"not Kafka-UI"',
        ),
        Site(
            "Kibana",
            settings.kibana_address,
            {
                "sign-in": sign_in_to_kibana,
                **{f"dashboard {name}": partial(check_dashboard, name) for name in dashboards},
            },
            standin="stand-in, not Kibana",
            login=("elastic", settings.elastic_password),
        ),
    ]


def list_observability_sites() -> list[Site]:
    """The pages of the profile `observability`, if it runs."""
    settings = load(ObservabilitySettings)
    sites = [
        Site(
            "Grafana",
            f"http://localhost:{settings.observability_grafana_port}",
            {
                "sign-in": sign_in_to_grafana,
                **{f"dashboard {file.stem}": partial(check_grafana_dashboard, file) for file in GRAFANA_DASHBOARDS},
            },
            standin='"standin":"not Grafana"',
            login=("admin", settings.observability_grafana_password),
        ),
        Site(
            "Prometheus",
            f"http://localhost:{settings.observability_prometheus_port}",
            {"targets": check_targets},
            standin="/classic/static/",  # of Debian, without these pages
        ),
    ]
    ports = (settings.observability_grafana_port, settings.observability_prometheus_port)
    return [site for site, port in zip(sites, ports, strict=True) if not is_free(port)]


def list_flights_sites() -> list[Site]:
    """The pages that the scraper of the flights reads, if they are served."""
    port = load(FlightsSettings).flights_departures_port
    if is_free(port):
        return []
    return [
        Site(name.capitalize(), f"http://localhost:{port}/{name}.html", {"table": check_table})
        for name in ("departures", "weather")
    ]


def list_shop_sites() -> list[Site]:
    """The dashboard of Superset, if it runs."""
    settings = load(ShopSettings)
    if is_free(settings.shop_superset_port):
        return []
    return [
        Site(
            "Superset",
            f"http://localhost:{settings.shop_superset_port}",
            {"sign-in": sign_in_to_superset, "dashboard sales": check_superset_dashboard},
            login=("analyst", settings.shop_superset_analyst_password),
        )
    ]


def sign_in_to_superset(page: Page, site: Site) -> str:
    return _sign_in(page, site, "/login/", "#username", "#password")


def check_superset_dashboard(page: Page, site: Site) -> str:
    """Wait until each chart has a figure, an error or the note that there are no rows."""
    names = [yaml.safe_load(file.read_text(encoding="utf-8"))["slice_name"] for file in SUPERSET_CHARTS]
    page.goto(f"{site.url}/superset/dashboard/sales/")
    charts = page.locator(_SUPERSET_CHART)
    for name in names:
        chart = page.locator(f'{_SUPERSET_CHART}[data-test-chart-name="{name}"]')
        expect(chart.locator(_SUPERSET_DONE).first).to_be_visible(timeout=RENDERED_MS)
    if faults := charts.locator(_SUPERSET_FAULT).all_inner_texts():
        raise ServiceUnavailableError("; ".join(" ".join(fault.split()) for fault in faults))
    empty = charts.locator(_SUPERSET_EMPTY).count()
    return f"{len(names)} charts without an error{f', {empty} without rows' if empty else ''}"


def check_table(page: Page, site: Site) -> str:
    """The page's script has filled its table. It does not where it gets no data."""
    expect(page.locator('table[aria-busy="false"]')).to_be_visible()
    return f"{page.locator('tbody tr').count()} rows"


def sign_in_to_airflow(page: Page, site: Site) -> str:
    user, password = site.login
    page.locator('input[name="username"]').fill(user)
    page.locator('input[name="password"]').fill(password)
    page.locator('[type="submit"]').click()
    expect(page.locator('a[href="/dags"]').first).to_be_visible()
    return f"as {user}"


def check_dags(page: Page, site: Site) -> str:
    page.goto(f"{site.url}/dags")
    dags = sorted(dag for path in DAGS.glob("dag_*.py") for dag in _DAG_ID.findall(path.read_text(encoding="utf-8")))
    for dag in dags:
        expect(page.locator(f'a[href="/dags/{dag}"]').first).to_be_visible()
    return ", ".join(dags)


def check_broker(page: Page, site: Site) -> str:
    page.goto(f"{site.url}/ui/clusters/{CLUSTER}/brokers")
    expect(page.get_by_role("row").filter(has_text="9092")).to_be_visible()
    return f"one in cluster {CLUSTER}"


def sign_in_to_kibana(page: Page, site: Site) -> str:
    user, password = site.login
    page.locator('[data-test-subj="loginUsername"]').fill(user)
    page.locator('[data-test-subj="loginPassword"]').fill(password)
    page.locator('[data-test-subj="loginSubmit"]').click()
    page.wait_for_url("**/app/**")
    return f"as {user}"


def check_dashboard(name: str, page: Page, site: Site) -> str:
    """Wait until every panel is drawn. They are drawn again at each refresh, so the page is opened without."""
    panels = len(_read_dashboard(name)["attributes"]["panelsJSON"])
    state = "(refreshInterval:(pause:!t,value:0),time:(from:now-4h,to:now))"
    page.goto(f"{site.url}/app/dashboards#/view/{name}?_g={state}")
    try:
        page.locator(_RENDERED).nth(panels - 1).wait_for(state="attached", timeout=RENDERED_MS)
        page.locator(_UNFINISHED).first.wait_for(state="detached", timeout=RENDERED_MS)
    except WaitError as error:
        drawn = page.locator(_RENDERED).count()
        raise ServiceUnavailableError(f"Drew {drawn} of {panels} panels in {RENDERED_MS // 1_000} s.") from error
    if faults := page.locator(_FAULTS).all_inner_texts():
        raise ServiceUnavailableError("; ".join(" ".join(fault.split()) for fault in faults))
    if empty := page.get_by_text("No results found").count():
        raise ServiceUnavailableError(f"{empty} panels show no rides of the last 4 hours. Run `make smoke` first.")
    return f"{panels} panels without an error"


def _read_dashboard(name: str) -> SavedObject:
    return next(saved for saved in read(objects_folder(name)) if key(saved) == Key("dashboard", name))


def sign_in_to_grafana(page: Page, site: Site) -> str:
    return _sign_in(page, site, "/login", 'input[name="user"]', 'input[name="password"]')


def _sign_in(page: Page, site: Site, path: str, user_field: str, password_field: str) -> str:
    """Fill in the form at `path`, which the page leaves if the login is right."""
    user, password = site.login
    page.goto(f"{site.url}{path}")
    page.locator(user_field).fill(user)
    page.locator(password_field).fill(password)
    page.locator('[type="submit"]').click()
    page.wait_for_url(lambda url: "/login" not in url)
    return f"as {user}"


def check_grafana_dashboard(file: Path, page: Page, site: Site) -> str:
    """Wait until no panel is loading. A panel whose query fails has a status icon.

    Those of the warehouse may have one while the profile shop is off.
    """
    dashboard = json.loads(file.read_text(encoding="utf-8"))
    # Without the menus; all panels are inside the window, so Grafana draws them.
    page.goto(f"{site.url}/d/{dashboard['uid']}?kiosk&from=now-1h&to=now")
    sources = {panel["title"]: panel["datasource"] for panel in dashboard["panels"] if panel["type"] != "row"}
    titles = list(sources)
    for title in titles:
        expect(page.get_by_role("heading", name=title, exact=True).first).to_be_visible()
    expect(page.get_by_test_id("data-testid Panel loading bar")).to_have_count(0)
    faults = page.get_by_test_id(_GRAFANA_FAULT).count()
    if is_free(load(ShopSettings).shop_postgres_port):
        faults -= sum(
            page.get_by_test_id(f"data-testid Panel header {title}").get_by_test_id(_GRAFANA_FAULT).count()
            for title, source in sources.items()
            if source == WAREHOUSE
        )
    if faults:
        raise ServiceUnavailableError(f"{faults} of {len(titles)} panels show an error.")
    return f"{len(titles)} panels without an error"


def check_targets(page: Page, site: Site) -> str:
    """Prometheus' own page lists every job; whether all are up is the alert TargetDown's to say."""
    page.goto(f"{site.url}/targets")
    jobs = [job["job_name"] for job in yaml.safe_load(PROMETHEUS.read_text(encoding="utf-8"))["scrape_configs"]]
    for job in jobs:
        expect(page.get_by_text(job, exact=True).first).to_be_visible()
    return ", ".join(jobs)


def check_site(page: Page, site: Site, folder: Path) -> Iterator[Finding]:
    """Open the first page and run the checks; saves a picture after each."""
    is_standin = False

    def open_first(page: Page, site: Site) -> str:
        nonlocal is_standin
        answer = page.goto(site.url)
        if site.url.startswith("file:"):
            return f"{site.url} opens"
        if answer is None or not answer.ok:
            raise ServiceUnavailableError(f"{site.url} answers {answer and answer.status}.")
        is_standin = bool(site.standin) and site.standin in answer.text()
        return f"{site.url} opens{', a stand-in' if is_standin else ''}"

    yield _run(page, site, "first page", open_first, folder)
    for name, check in site.checks.items():
        if is_standin:
            yield Finding(f"{site.name}, {name}", True, "skipped: stand-in", is_advice=True)
        else:
            yield _run(page, site, name, check, folder)


def _run(page: Page, site: Site, name: str, check: Callable[[Page, Site], str], folder: Path) -> Finding:
    title = f"{site.name}, {name}"
    try:
        return Finding(title, True, check(page, site))
    except (DatastreamError, Error, AssertionError) as error:
        return Finding(title, False, " ".join(str(error).split("Aria snapshot")[0].split()))
    finally:
        with suppress(WaitError):
            page.wait_for_load_state("networkidle", timeout=SETTLED_MS)
        page.screenshot(path=folder / f"{title.lower().replace(', ', '-').replace(' ', '-')}.png")


@contextmanager
def open_page() -> Iterator[Page]:
    """A page of a headless browser.

    Raises:
        ConfigurationError: there is no browser.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver:
        try:
            # Without a program on the PATH, Playwright looks for Chrome where its installer puts it.
            browser = driver.chromium.launch(executable_path=program, channel=None if program else "chrome")
        except Error as error:
            raise ConfigurationError(
                f"Cannot start a browser: {error.message.splitlines()[0]}. Install Chromium (Debian: apt install "
                "chromium) or Chrome."
            ) from error
        with browser:
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(SHOWN_MS)
            yield page


def main() -> None:
    console = make_console()
    expect.set_options(timeout=SHOWN_MS)
    try:
        settings = load(Settings)
        folder = settings.datastream_state / "screenshots"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        profiles = [*list_observability_sites(), *list_shop_sites(), *list_flights_sites()]
        sites = [*list_sites(settings), *profiles, *list_pages()]
        with open_page() as page:
            findings = [finding for site in sites for finding in check_site(page, site, folder)]
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)
    show(findings, console)
    console.print(f"Saved the pictures in {folder}.", highlight=False, soft_wrap=True)
    sys.exit(not all(finding.fits for finding in findings))


if __name__ == "__main__":
    main()
