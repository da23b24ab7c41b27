"""Writes the settings file `.env`, or the secrets of an environment in env/, with generated secrets."""

from __future__ import annotations

import base64
import os
import platform
import secrets
from collections.abc import Callable

from infra.local.runner.paths import write_private
from jobs.settings import ROOT, list_env_files
from jobs.verticals import merge_settings

SETTINGS = list_env_files()[0]
IS_NAMED = SETTINGS.name != ".env"
FILE = SETTINGS.with_suffix(".secrets.env") if IS_NAMED else SETTINGS
# As a user at the root would write it.
FILE_NAME = FILE.relative_to(ROOT) if FILE.is_relative_to(ROOT) else FILE
# `docker compose -f infra/docker-compose.yml` reads this file instead.
LINK = ROOT / "infra" / ".env"


def generate_password() -> str:
    return secrets.token_hex(16)


def generate_fernet_key() -> str:
    """32 random bytes in URL-safe Base64: the format of the Fernet specification."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def generate_long_key() -> str:
    """64 random bytes in hexadecimal: what HS512 needs."""
    return secrets.token_hex(64)


GENERATED: dict[str, Callable[[], str]] = {
    **{name.upper(): generate_password for name in merge_settings().model_fields if name.endswith("_password")},
    "POSTGRES_PASSWORD": generate_password,
    "AIRFLOW_FERNET_KEY": generate_fernet_key,
    "AIRFLOW_JWT_SECRET": generate_long_key,
    "AIRFLOW_API_SECRET_KEY": generate_long_key,
    "KIBANA_ENCRYPTION_KEY": generate_password,
    "SHOP_SUPERSET_SECRET_KEY": generate_long_key,
}


def write() -> bool:
    """Write the file, readable by its owner only, unless it exists; returns whether it was written.

    A setting that it does not contain has its default, also after an upgrade changes the default.
    """
    if not (IS_NAMED or LINK.is_symlink() or LINK.exists()):
        LINK.symlink_to("../.env")
    if FILE.exists():
        return False
    values = {name: generate() for name, generate in GENERATED.items()} | _machine_settings()
    lines = [
        "# Generated. .env.example explains these and all other settings.",
        *(f"{k}={v}" for k, v in values.items()),
    ]
    write_private(FILE, "\n".join(lines) + "\n")
    if IS_NAMED:
        # For what this process starts; the Makefile adds a file that exists.
        os.environ["COMPOSE_ENV_FILES"] = f"{SETTINGS},{FILE}"
    return True


def _machine_settings() -> dict[str, str]:
    # Root's files are readable anyway, and Airflow should not run as root.
    settings = {"AIRFLOW_UID": str(os.getuid())} if os.getuid() else {}
    if platform.machine() in {"arm64", "aarch64"}:
        # An emulated x86-64 image does not know UseSVE.
        settings["ES_EXTRA_JAVA_OPTS"] = "-XX:+IgnoreUnrecognizedVMOptions -XX:UseSVE=0"
    return settings
