"""The assets of Superset, its API, and queries of charts as Superset makes them.

`python -m tests.testkit.superset` draws docs/superset_sales.png again. It needs `make shop-demo superset` and Chromium.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests
import yaml

from infra.local.runner.environment import make_base
from infra.local.runner.paths import Paths
from infra.local.services.superset import FOLDER, PYTHON, make_environment
from jobs.inherited import make_environment as inherit
from jobs.settings import LOOPBACK, ROOT

ASSETS = FOLDER / "assets"
INIT_TIMEOUT_S = 300
PICTURE = ROOT / "docs" / "superset_sales.png"
# A third of the size; Superset's environment has Pillow.
REDUCE = """
import sys
from PIL import Image
Image.open(sys.argv[1]).convert("RGB").quantize(256).save(sys.argv[2], optimize=True)
"""


def read_assets(kind: str, folder: Path = ASSETS) -> dict[str, dict[str, Any]]:
    """The YAML files of a kind, by their names without the ending."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((folder / kind).rglob("*.yaml"))}


def make_query(chart: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The query in a request to /api/v1/chart/data that follows from a chart's YAML.

    Args:
        changes: of its parameters.
    """
    params = chart["params"] | changes
    metrics = params.get("metrics") or ([params["metric"]] if "metric" in params else [])
    groupby = params.get("groupby") or []
    columns: list[Any] = [groupby] if isinstance(groupby, str) else [*groupby]
    if axis := params.get("x_axis"):
        is_time = "time_grain_sqla" in params
        base = {"columnType": "BASE_AXIS", "sqlExpression": axis, "label": axis, "expressionType": "SQL"}
        columns.insert(0, base | {"timeGrain": params["time_grain_sqla"]} if is_time else base)
    if params.get("query_mode") == "raw":
        columns, metrics = params["all_columns"], None
    return {
        "columns": columns,
        "metrics": metrics,
        "filters": [
            {"col": filter_["subject"], "op": filter_["operator"], "val": filter_["comparator"]}
            for filter_ in params.get("adhoc_filters", [])
        ],
        "row_limit": params.get("row_limit", 10_000),
    }


class Superset:
    """A client of the API.

    Args:
        user: admin or analyst; None: not signed in.
    """

    def __init__(self, settings: Any, user: str | None) -> None:
        self._url = f"http://{LOOPBACK}:{settings.shop_superset_port}"
        self._session = requests.Session()
        self._session.trust_env = False
        if user is None:
            return
        password = getattr(settings, f"shop_superset_{user}_password")
        login = {"username": user, "password": password, "provider": "db"}
        answer = self.call("POST", "/api/v1/security/login", login)
        self._session.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def request(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self._session.request(method, self._url + path, json=body, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.request(method, path, body)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def change(self, method: str, path: str, body: Any = None) -> requests.Response:
        """A request that Superset accepts only with a token against forgery."""
        page = self.request("GET", "/login/").text
        (token,) = re.findall(r'name="csrf_token"[^>]* value="([^"]+)"', page)
        headers = {"X-CSRFToken": token, "Referer": self._url}
        return self._session.request(method, self._url + path, json=body, headers=headers, timeout=60)

    def list_charts(self) -> dict[str, dict[str, Any]]:
        """The charts of the dashboard by name."""
        return {chart["slice_name"]: chart for chart in self.call("GET", "/api/v1/dashboard/sales/charts")["result"]}

    def query(self, chart: dict[str, Any], dataset_id: int, **changes: Any) -> list[dict[str, Any]]:
        """The rows of a chart's YAML."""
        body = {
            "datasource": {"id": dataset_id, "type": "table"},
            "queries": [make_query(chart, **changes)],
            "result_format": "json",
            "result_type": "full",
        }
        (result,) = self.call("POST", "/api/v1/chart/data", body)["result"]
        rows: list[dict[str, Any]] = result["data"]
        return rows


def copy_folder(target: Path) -> Path:
    """A copy of infra/superset, whose assets a test may change."""
    return shutil.copytree(FOLDER, target / "superset", ignore=shutil.ignore_patterns("__pycache__"))


def start_init(settings: Any, folder: Path = FOLDER, **variables: str) -> subprocess.Popen[str]:
    """Start init.py of a folder in Superset's environment; standard error goes to standard output."""
    return subprocess.Popen(
        [str(PYTHON), str(folder / "init.py")],
        env=make_base(Paths(settings.datastream_state)) | make_environment(settings) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_init(settings: Any, folder: Path = FOLDER, **variables: str) -> tuple[int, str]:
    """Run init.py; returns its exit code and output."""
    with start_init(settings, folder, **variables) as process:
        output, _ = process.communicate(timeout=INIT_TIMEOUT_S)
    return process.returncode, output


def draw() -> None:
    """Save a picture of the dashboard of the running Superset."""
    from infra.docker import browser

    sites = browser.list_shop_sites()
    if not sites:
        sys.exit("error: Superset does not run. Run make shop-demo superset.")
    with tempfile.TemporaryDirectory() as folder:
        with browser.open_page() as page:
            findings = list(browser.check_site(page, sites[0], Path(folder)))
        if not all(finding.fits for finding in findings):
            sys.exit(f"error: {findings[-1].text}")
        picture = Path(folder, "superset-dashboard-sales.png")
        subprocess.run([PYTHON, "-c", REDUCE, picture, PICTURE], env=inherit(), check=True, timeout=60)
    print(f"Wrote {PICTURE}: {findings[-1].text}")


if __name__ == "__main__":
    draw()
