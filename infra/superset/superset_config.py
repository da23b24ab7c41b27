"""Superset's settings: `SUPERSET_CONFIG_PATH` names this file. Passwords and keys come from the environment.

There is no Redis and no Celery: the state of filters is in Superset's own database, and no reports are scheduled.
"""

from __future__ import annotations

import os
import sys

from sqlalchemy.engine.url import URL

# Superset's settings are upper case; what else this file defines is not.
_WAREHOUSE_ROLE = "superset_ro"


def _read(name: str) -> str:
    """A variable that has no default."""
    value = os.environ.get(name, "")
    if not value:
        sys.exit(
            f"error: {name} is empty, and Superset does not start without it. `make up` generates it into .env; "
            "`make superset` generates or reads it without Docker."
        )
    return value


def _read_password(url: URL) -> str | None:
    """The password of a connection to the warehouse, which is neither in a file nor in Superset's database."""
    return os.environ.get("SHOP_SUPERSET_READER_PASSWORD") if url.username == _WAREHOUSE_ROLE else None


SECRET_KEY = _read("SHOP_SUPERSET_SECRET_KEY")

SQLALCHEMY_DATABASE_URI = URL.create(
    "postgresql+psycopg2",
    username="superset",
    password=_read("SHOP_SUPERSET_DATABASE_PASSWORD"),
    host=os.environ.get("SHOP_POSTGRES_HOST") or "127.0.0.1",
    port=int(os.environ.get("SHOP_POSTGRES_PORT") or 5432),
    database="superset",
).render_as_string(hide_password=False)
SQLALCHEMY_CUSTOM_PASSWORD_STORE = _read_password

# Nobody sees anything without signing in. Files of this machine, such as SQLite's, are no databases.
PUBLIC_ROLE_LIKE = None
AUTH_USER_REGISTRATION = False
PREVENT_UNSAFE_DB_CONNECTIONS = True
RATELIMIT_ENABLED = True
RATELIMIT_STORAGE_URI = "memory://"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
WTF_CSRF_ENABLED = True

# The defaults allow pictures, maps and fonts of servers on the Internet, one of which counts visits.
TALISMAN_ENABLED = True
TALISMAN_CONFIG = {
    "content_security_policy": {
        "base-uri": ["'self'"],
        "default-src": ["'self'"],
        "img-src": ["'self'", "blob:", "data:"],
        "worker-src": ["'self'", "blob:"],
        "object-src": "'none'",
        "style-src": ["'self'", "'unsafe-inline'"],
        "script-src": ["'self'", "'strict-dynamic'"],
    },
    "content_security_policy_nonce_in": ["script-src"],
    # On the loopback there is no TLS. Behind a proxy with TLS, set both to True.
    "force_https": False,
    "session_cookie_secure": False,
}
