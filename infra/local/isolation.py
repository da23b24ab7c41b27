"""Settings of a stack that runs next to others: for tests and benchmarks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from infra.local.runner import ports
from infra.local.services.catalog import SERVICES
from jobs.settings import Settings
from jobs.verticals import merge_settings


def isolated_settings(state: Path | None = None, **changes: Any) -> Settings:
    """Settings with free ports and every service on this machine; .env is not read.

    Args:
        state: the state folder; a new one by default. Its path must be short, because it holds a socket.
        changes: further settings by their names.
    """
    own: dict[str, Any] = {
        "datastream_state": state or Path(tempfile.mkdtemp(prefix="ds-")).resolve(),
        "staging_url": "",
    }
    for service, port in zip(SERVICES, ports.find_free(len(SERVICES)), strict=True):
        own |= {service.setting.lower(): port, **service.isolation}
    return merge_settings()(_env_file=None, **own | changes)
