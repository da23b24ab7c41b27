"""The environment that services get: named variables of this shell and what we set, nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.local.paths import Paths
from jobs.environments import STACK_MARK, inherited_variables
from jobs.settings import LOOPBACK, ROOT, Settings


def base(paths: Paths) -> dict[str, str]:
    """What every service gets: the kept variables, a PATH that starts with this interpreter's folder, our mark."""
    inherited = inherited_variables()
    here = str(Path(sys.executable).parent)
    # Services talk to each other on the loopback: a proxy must not get in between.
    direct = ",".join(filter(None, [inherited.get("no_proxy") or inherited.get("NO_PROXY"), LOOPBACK, "localhost"]))
    return {
        "LANG": "C.UTF-8",
        **inherited,
        "PATH": os.pathsep.join([here, inherited.get("PATH") or os.defpath]),
        "TMPDIR": str(paths.tmp),
        "NO_PROXY": direct,
        "no_proxy": direct,
        STACK_MARK: str(paths.state),
        # Airflow changes its processes' titles; unless told so, that overwrites the environment that shows the mark.
        "SPT_NOENV": "1",
    }


def of_settings(settings: Settings) -> dict[str, str]:
    """Every setting as the environment variable that it is read from: tasks see exactly this stack's settings."""
    values = {name.upper(): str(getattr(settings, name)) for name in type(settings).model_fields}
    values |= {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "ELASTICSEARCH_URL": settings.es_url,
        "KIBANA_URL": settings.kibana_address,
        "CLOUD_STORAGE": "emulator" if settings.gcs_endpoint else "google",
        "GCS_EMULATOR_URL": settings.gcs_endpoint or "",
        "GCS_BUCKET": settings.bucket,
        "GOOGLE_APPLICATION_CREDENTIALS": str(settings.gcs_credentials_file or ""),
        "STAGING_URL": settings.staging,
    }
    # Google's clients take an empty one for a file without a name.
    return {name: value for name, value in values.items() if value} | {"PYTHONPATH": str(ROOT)}
