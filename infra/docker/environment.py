"""The settings file `.env`, with generated secrets."""

from __future__ import annotations

import base64
import os
import platform
import secrets
from collections.abc import Callable

from infra.local.runner.paths import write_private
from jobs.settings import ROOT

FILE = ROOT / ".env"
# Read by `docker compose -f infra/docker-compose.yml`, which does not look at the root.
LINK = ROOT / "infra" / ".env"


def password() -> str:
    return secrets.token_hex(16)


def fernet_key() -> str:
    """32 random bytes in URL-safe Base64, as the Fernet specification has it."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def long_key() -> str:
    """64 random bytes in hexadecimal: enough for HS512."""
    return secrets.token_hex(64)


GENERATED: dict[str, Callable[[], str]] = {
    "AIRFLOW_PASSWORD": password,
    "ELASTIC_PASSWORD": password,
    "KIBANA_SYSTEM_PASSWORD": password,
    "ELASTICSEARCH_WRITER_PASSWORD": password,
    "ELASTICSEARCH_READER_PASSWORD": password,
    "POSTGRES_PASSWORD": password,
    "AIRFLOW_FERNET_KEY": fernet_key,
    "AIRFLOW_JWT_SECRET": long_key,
    "AIRFLOW_API_SECRET_KEY": long_key,
    "KIBANA_ENCRYPTION_KEY": password,
}


def make() -> bool:
    """Write .env, readable by its owner only, unless there is one; returns whether it was written.

    What is not in it keeps its default, also when an upgrade changes that.
    """
    if not LINK.is_symlink() and not LINK.exists():
        LINK.symlink_to("../.env")
    if FILE.exists():
        return False
    values = {name: generate() for name, generate in GENERATED.items()} | _of_this_machine()
    lines = [
        "# Generated. Every other setting, and what these are: .env.example",
        *(f"{k}={v}" for k, v in values.items()),
    ]
    write_private(FILE, "\n".join(lines) + "\n")
    return True


def _of_this_machine() -> dict[str, str]:
    # Root needs no help with files, and Airflow should not run as root.
    found = {"AIRFLOW_UID": str(os.getuid())} if os.getuid() else {}
    if platform.machine() in {"arm64", "aarch64"}:
        found["ES_EXTRA_JAVA_OPTS"] = "-XX:UseSVE=0"
    return found
