"""Set up Superset: `python init.py`, with the environment that superset_config.py reads. Harmless to repeat.

One process, because loading Superset takes most of the time. It migrates Superset's database, sets the passwords of the
users, and imports the assets: databases, datasets, charts and the dashboard. What was changed in Superset itself is
overwritten; other charts and dashboards stay.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

ASSETS = Path(__file__).parent / "assets"
ANALYST_ROLE = "Sales analyst"
# Besides what Superset gives to readers without a login: the list of dashboards, their own page, the log of visits.
ANALYST_PERMISSIONS = {
    ("menu_access", "Dashboards"),
    ("can_userinfo", "UserDBModelView"),
    ("can_recent_activity", "Log"),
    ("can_log", "Superset"),
}
CONNECT_TIMEOUT_S = 10
# Any number: two set-ups at the same time wait for each other.
LOCK = 24
# psycopg2 gives no error code for a connection that failed.
REJECTIONS = ("authentication failed", "does not exist", "permission denied", "no password")
NO_DRIVER = (
    "This environment has no driver for PostgreSQL: the package psycopg2 is missing. With Docker, build the image from "
    "infra/superset/Dockerfile: docker compose --profile bi build superset. Without Docker: rm -r .venv-superset, then "
    "make superset."
)
WRONG_KEY = (
    "Superset's database has secrets that another SHOP_SUPERSET_SECRET_KEY has encrypted. Set the old key again "
    "(without Docker it was in .local/secrets/superset_secret_key). In Docker you can also re-encrypt them: set "
    "SHOP_SUPERSET_PREVIOUS_SECRET_KEY to the old key and run "
    "docker compose --profile bi run --rm -e SHOP_SUPERSET_PREVIOUS_SECRET_KEY superset-init."
)
NO_MARTS = "The warehouse does not have {}. Run make shop-demo first (Docker: make shop-transform): dbt makes them."

Files = dict[str, dict[str, Any]]


class SetUpError(Exception):
    """Superset cannot be set up. The text says what to do."""


def main() -> None:
    """Run the set-up.

    Raises:
        SetUpError: something is missing or wrong; the dashboard is as it was before.
    """
    parser = argparse.ArgumentParser(description="Set up Superset and import its dashboard. Harmless to repeat.")
    parser.add_argument("--require-marts", action="store_true", help="fail if dbt has not made the marts")
    options = parser.parse_args()
    files = read_assets()
    with connect("superset", "superset", "SHOP_SUPERSET_DATABASE_PASSWORD") as database:
        database.cursor().execute("select pg_advisory_lock(%s)", [LOCK])
        check_warehouse(files, options.require_marts)
        report("Loading Superset …")
        # Superset and some of its migrations print and log each thing that they do.
        logging.disable(logging.WARNING)
        with redirect_stdout(io.StringIO()):
            from superset.app import create_app

            app = create_app()
        with app.app_context():
            set_up(files)


def set_up(files: Files) -> None:
    """Migrate, set users and roles, import. In Superset's application context."""
    from flask_migrate import upgrade

    from superset import appbuilder, db, security_manager
    from superset.utils.core import override_user
    from superset.utils.decorators import transaction

    report("Migrating Superset's database …")
    with redirect_stdout(io.StringIO()):
        upgrade()
    if previous_key := os.environ.get("SHOP_SUPERSET_PREVIOUS_SECRET_KEY"):
        report("Encrypting secrets with the new key …")
        encrypt_again(previous_key)
    check_key()
    report("Setting up roles and users …")
    appbuilder.add_permissions(update_perms=True)
    security_manager.sync_role_definitions()
    db.session.commit()
    admin = set_user("admin", "Admin", os.environ["SHOP_SUPERSET_ADMIN_PASSWORD"])
    report("Importing the dashboard …")
    with override_user(admin):
        transaction()(import_assets)(files)
    set_analyst_role(list_uuids(files, "datasets"))
    set_user("analyst", ANALYST_ROLE, os.environ["SHOP_SUPERSET_ANALYST_PASSWORD"])


def read_assets() -> Files:
    """The YAML files by their paths. The warehouse's address is that of the environment."""
    try:
        files = {
            str(path.relative_to(ASSETS)): yaml.safe_load(path.read_bytes()) for path in sorted(ASSETS.rglob("*.yaml"))
        }
    except yaml.YAMLError as error:
        raise SetUpError(f"A file in {ASSETS} is not YAML: {error}") from error
    host, port = read_address()
    for name in list_names(files, "databases"):
        credentials, _, rest = files[name]["sqlalchemy_uri"].partition("@")
        files[name]["sqlalchemy_uri"] = f"{credentials}@{host}:{port}/{rest.partition('/')[2]}"
    return files


def list_names(files: Files, kind: str) -> list[str]:
    return [name for name in files if name.startswith(f"{kind}/")]


def list_uuids(files: Files, kind: str) -> set[str]:
    return {files[name]["uuid"] for name in list_names(files, kind)}


def read_address() -> tuple[str, int]:
    """Host and port of the server of both databases."""
    return os.environ.get("SHOP_POSTGRES_HOST") or "127.0.0.1", int(os.environ.get("SHOP_POSTGRES_PORT") or 5432)


@contextmanager
def connect(role: str, database: str, setting: str) -> Iterator[Any]:
    """A connection to the server, to say more than Superset does when something is wrong.

    Args:
        setting: the variable with the role's password.

    Raises:
        SetUpError: there is no driver, the server does not answer, or it rejects the role.
    """
    try:
        import psycopg2
    except ModuleNotFoundError as error:
        raise SetUpError(NO_DRIVER) from error
    host, port = read_address()
    try:
        connection = psycopg2.connect(
            host=host, port=port, dbname=database, user=role, password=os.environ.get(setting),
            connect_timeout=CONNECT_TIMEOUT_S, application_name="superset-init",
        )  # fmt: skip
    except psycopg2.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        if any(text in reason for text in REJECTIONS):
            raise SetUpError(
                f"PostgreSQL at {host}:{port} rejects {role}: {reason}. {setting} must be the one in .env; then set up "
                "the warehouse again: docker compose --profile bi up -d --wait (Docker), or make superset (without)."
            ) from error
        raise SetUpError(
            f"PostgreSQL at {host}:{port} does not answer: {reason}. SHOP_POSTGRES_HOST and SHOP_POSTGRES_PORT name "
            "it. Start it: docker compose --profile bi up -d --wait (Docker), or make superset (without)."
        ) from error
    with closing(connection):
        connection.autocommit = True
        yield connection


def check_warehouse(files: Files, require_marts: bool) -> None:
    """Sign in as Superset does, look for the tables of the datasets.

    Raises:
        SetUpError: as `connect`; or a table is missing, and `require_marts`.
    """
    datasets = [files[name] for name in list_names(files, "datasets")]
    tables = [f"{dataset['schema']}.{dataset['table_name']}" for dataset in datasets if "sql" not in dataset]
    with connect("superset_ro", "data_warehouse", "SHOP_SUPERSET_READER_PASSWORD") as warehouse:
        cursor = warehouse.cursor()
        cursor.execute("select name from unnest(%s) as name where to_regclass(name) is null", [tables])
        missing = ", ".join(name for (name,) in cursor.fetchall())
    if missing and require_marts:
        raise SetUpError(NO_MARTS.format(missing))
    if missing:
        report(f"warning: {NO_MARTS.format(missing)} Until then their charts show an error.")


def import_assets(files: Files) -> None:
    """Import and overwrite, then check. In a transaction of Superset, which the importer joins.

    Raises:
        SetUpError: Superset refuses a file, or the import is not complete.
    """
    from superset.commands.exceptions import CommandException, CommandInvalidError
    from superset.commands.importers.v1.assets import ImportAssetsCommand

    try:
        ImportAssetsCommand({name: yaml.safe_dump(content) for name, content in files.items()}).run()
    except (CommandException, KeyError) as error:  # a KeyError has a uuid that no file has
        details = error.normalized_messages() if isinstance(error, CommandInvalidError) else error
        raise SetUpError(f"Superset cannot import the files in {ASSETS}: {details}") from error
    check_import(files)


def check_key() -> None:
    """Decrypt the secrets of databases that somebody has added; the warehouse has none.

    Raises:
        SetUpError: they are encrypted with another key.
    """
    from superset import db
    from superset.databases.ssh_tunnel.models import SSHTunnel
    from superset.models.core import Database

    try:
        for model in (Database, SSHTunnel):
            db.session.query(model).all()
    except ValueError as error:
        raise SetUpError(WRONG_KEY) from error


def encrypt_again(previous_key: str) -> None:
    """Encrypt secrets with this key instead of the previous one.

    `superset re-encrypt-secrets` of 6.1 does nothing: it looks for columns in the wrong metadata (superset#39391).

    Raises:
        SetUpError: the previous key is another one.
    """
    from flask_appbuilder import Model
    from sqlalchemy_utils import EncryptedType

    from superset.utils.encrypt import SecretsMigrator

    class Migrator(SecretsMigrator):  # type: ignore[misc]  # of a package that is not here
        def discover_encrypted_fields(self) -> dict[str, dict[str, Any]]:
            tables = {
                table.name: {it.name: it.type for it in table.columns if isinstance(it.type, EncryptedType)}
                for table in Model.metadata.tables.values()
            }
            return {name: columns for name, columns in tables.items() if columns}

    try:
        Migrator(previous_key).run()
    except Exception as error:  # that class raises no other
        raise SetUpError(WRONG_KEY) from error


def check_import(files: Files) -> None:
    """Compare Superset with the files: the importer stops without an error at the first chart that it does not know.

    Raises:
        SetUpError: with all differences.
    """
    from superset import db
    from superset.connectors.sqla.models import SqlaTable
    from superset.models.core import Database
    from superset.models.dashboard import Dashboard
    from superset.models.slice import Slice

    faults = []
    models = {"databases": Database, "datasets": SqlaTable, "charts": Slice, "dashboards": Dashboard}
    counts = {}
    for kind, model in models.items():
        wanted = list_uuids(files, kind)
        counts[kind] = db.session.query(model).filter(model.uuid.in_(wanted)).count()
        if not counts[kind] == len(wanted) == len(list_names(files, kind)):
            faults.append(f"{counts[kind]} {kind} of {len(list_names(files, kind))} files")
    for name in list_names(files, "dashboards"):
        dashboard = db.session.query(Dashboard).filter_by(uuid=files[name]["uuid"]).one()
        placed = Counter(
            item["meta"].get("uuid", "a chart without uuid")
            for item in dashboard.position.values()
            if isinstance(item, dict) and item["type"] == "CHART"
        )
        attached = {str(chart.uuid) for chart in dashboard.slices}
        for uuid in sorted(list_uuids(files, "charts") | set(placed) | attached):
            if placed[uuid] != 1 or uuid not in attached:
                faults.append(f"{name} has the chart {uuid} {placed[uuid]} times")
        if not dashboard.published:
            faults.append(f"{name} is not published")
    if faults:
        raise SetUpError(f"The import of {ASSETS} is not complete, nothing was changed: {'; '.join(faults)}.")
    report(f"Imported {', '.join(f'{kind} {count}' for kind, count in counts.items())}.")


def set_analyst_role(datasets: set[str]) -> None:
    """Let the role see dashboards that are made of these datasets only, without SQL Lab and without a change."""
    from superset import db, security_manager
    from superset.connectors.sqla.models import SqlaTable

    tables = db.session.query(SqlaTable).filter(SqlaTable.uuid.in_(datasets))
    own = [*sorted(ANALYST_PERMISSIONS), *(("datasource_access", table.get_perm()) for table in tables)]
    # Superset's list has permissions of pages that it does not have.
    wanted = [*sorted(security_manager.PUBLIC_ROLE_PERMISSIONS), *own]
    permissions = {pair: security_manager.find_permission_view_menu(*pair) for pair in wanted}
    if unknown := [" ".join(pair) for pair in own if permissions[pair] is None]:
        raise SetUpError(f"This Superset has no permission {', '.join(unknown)}, which the role {ANALYST_ROLE} needs.")
    role = security_manager.add_role(ANALYST_ROLE)
    role.permissions = [permission for permission in permissions.values() if permission is not None]
    db.session.commit()


def set_user(name: str, role: str, password: str) -> Any:
    """Make the user unless there is one, set the password and the role."""
    from superset import db, security_manager

    found = security_manager.find_role(role)
    user = security_manager.find_user(username=name) or security_manager.add_user(
        name, name.capitalize(), "Datastream", f"{name}@localhost", found, password
    )
    if not user:
        raise SetUpError(f"Superset cannot make the user {name}: another one has the address {name}@localhost.")
    user.roles, user.active = [found], True
    security_manager.reset_password(user.id, password)
    db.session.commit()
    return user


def report(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
