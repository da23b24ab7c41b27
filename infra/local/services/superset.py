"""Superset, which shows the shop's marts. It needs other versions than this project: .venv-superset.

Its own data are in the warehouse's server (database `superset`); `set_up` fills it from infra/superset.
"""

from __future__ import annotations

import secrets
import subprocess
from typing import Any

from infra.local.runner.environment import make_base
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.health import TIMEOUT_S
from infra.local.runner.paths import Paths, keep_secret, make_private_folder
from infra.local.runner.service import Process, Service
from infra.preflight import Finding
from jobs.clients import make_local_session
from jobs.settings import LOOPBACK, ROOT
from jobs.shop.database import SUPERSET, connect

NAME = "superset"
PYTHON = ROOT / ".venv-superset" / "bin" / "python"
FOLDER = ROOT / "infra" / "superset"
NOT_INSTALLED = f"Superset is not installed: there is no {PYTHON}. Run make superset."
SET_UP_TIMEOUT_S = 600


def set_up(settings: Any) -> None:
    """Set up its database, users and roles, import the dashboard; prints the steps. The warehouse must run.

    Raises:
        ServiceFailedError: it is not installed, or the set-up failed, which says why on standard error.
    """
    if not PYTHON.exists():
        raise ServiceFailedError(NOT_INSTALLED)
    paths = Paths(settings.datastream_state)
    command = [str(PYTHON), str(FOLDER / "init.py"), "--require-marts"]
    environment = make_base(paths) | make_environment(settings)
    try:
        done = subprocess.run(command, env=environment, check=False, timeout=SET_UP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ServiceFailedError(
            f"Superset's set-up took more than {SET_UP_TIMEOUT_S} s. Is another one running? Run make superset again."
        ) from error
    if done.returncode:
        raise ServiceFailedError(f"Superset's set-up ended with {done.returncode}; see the reason above.")


def make_environment(settings: Any) -> dict[str, str]:
    """The variables that superset_config.py and init.py read."""
    paths = Paths(settings.datastream_state)
    make_private_folder(paths.service(NAME))
    return {
        "SUPERSET_CONFIG_PATH": str(FOLDER / "superset_config.py"),
        "SUPERSET_HOME": str(paths.service(NAME)),
        "SUPERSET_ENV": "production",
        # A time range such as "the last 90 days" starts at the server's time.
        "TZ": "UTC",
        "SHOP_POSTGRES_HOST": settings.shop_host,
        "SHOP_POSTGRES_PORT": str(settings.shop_postgres_port),
        "SHOP_SUPERSET_SECRET_KEY": keep_secret(paths, "superset_secret_key", secrets.token_urlsafe(64)),
        "SHOP_SUPERSET_DATABASE_PASSWORD": settings.shop_superset_database_password,
        "SHOP_SUPERSET_READER_PASSWORD": settings.shop_superset_reader_password,
        "SHOP_SUPERSET_ADMIN_PASSWORD": settings.shop_superset_admin_password,
        "SHOP_SUPERSET_ANALYST_PASSWORD": settings.shop_superset_analyst_password,
    }


def _build(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    configuration = paths.run / "superset_config.py"
    process = Process(
        name=NAME,
        # As in the image.
        command=[
            str(PYTHON), "-m", "gunicorn", f"--bind={LOOPBACK}:{settings.shop_superset_port}", "--workers=1",
            "--worker-class=gthread", "--threads=20", "--timeout=60", "--access-logfile=-", "superset.app:create_app()",
        ],
        environment={**make_environment(settings), "SUPERSET_CONFIG_PATH": str(configuration)},
        folder=paths.service(NAME),
        # A copy: a change is then a reason for a restart.
        files={configuration: (FOLDER / "superset_config.py").read_text(encoding="utf-8")},
    )  # fmt: skip
    return (process,)


def _check(_: Any) -> list[Finding]:
    return [] if PYTHON.exists() else [Finding("Superset", False, NOT_INSTALLED)]


def _demand_tables(settings: Any) -> None:
    with connect(settings, SUPERSET) as database:
        row = database.execute("select to_regclass('ab_user') is not null").fetchone()
    if row != (True,):
        raise ServiceFailedError("Superset's database is empty. Run make superset.")


def _find_fault(settings: Any) -> str | None:
    session = make_local_session()
    session.get(f"{_url(settings)}/health", timeout=TIMEOUT_S).raise_for_status()
    # Other servers have the same path; this one also needs the database.
    page = session.get(f"{_url(settings)}/login/", timeout=TIMEOUT_S)
    page.raise_for_status()
    return None if "Superset" in page.text else f"port {settings.shop_superset_port} belongs to another program"


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.shop_superset_port}"


def _login(settings: Any) -> str:
    return (
        f"(/superset/dashboard/sales; logins: analyst, {settings.shop_superset_analyst_password}; admin, "
        f"{settings.shop_superset_admin_password})"
    )


SERVICE = Service(
    name=NAME,
    title="Superset",
    setting="SHOP_SUPERSET_PORT",
    memory_mib=400,
    url=_url,
    expected_at=_url,
    build=_build,
    check=_check,
    prepare=_demand_tables,
    find_fault=_find_fault,
    login=_login,
    after=("postgres",),
)
