"""Settings of a stack beside others, for tests and benchmarks: free ports, a state folder of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from infra.local import ports
from jobs.settings import Settings
from jobs.verticals import stack_settings


def settings(state: Path | None = None, **changes: Any) -> Settings:
    """Settings with free ports that name no service elsewhere; what .env says does not count.

    Args:
        state: the state folder; a new one where it is left out. It has to be short: sockets' paths are.
        changes: settings by their names.
    """
    kafka, elasticsearch, gcs, airflow = ports.free(4)
    own: dict[str, Any] = {
        "datastream_state": state or Path(tempfile.mkdtemp(prefix="ds-")).resolve(),
        "kafka_port": kafka,
        "elasticsearch_port": elasticsearch,
        "gcs_port": gcs,
        "airflow_port": airflow,
        "kafka_bootstrap_servers": "",
        "elasticsearch_url": "",
        "gcs_emulator_url": "",
        "cloud_storage": "emulator",
        "staging_url": "",
    }
    return stack_settings()(_env_file=None, **own | changes)
