"""The shipper of the shop's log: a stand-in for Logstash that runs the files in infra/logstash."""

from __future__ import annotations

import sys
from typing import Any

from infra.local.environment import export_settings
from infra.local.runner.health import TIMEOUT_S
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.clients import make_elasticsearch_admin, make_local_session
from jobs.settings import LOOPBACK, ROOT
from jobs.shop.vertical import VERTICAL as SHOP

NAME = "logstash"


def _build(settings: Any) -> tuple[Process]:
    environment = {
        **export_settings(settings),
        "PYTHONUNBUFFERED": "1",
        "LOGSTASH_LOGS": str(settings.shop_logs),
        "LOGSTASH_DATA": str(settings.shop_logstash_data),
    }
    port = str(settings.shop_logstash_port)
    process = Process(
        name=NAME,
        command=[sys.executable, "-m", "infra.local.services.logstash", str(ROOT / "infra" / "logstash"), port],
        environment=environment,
        folder=Paths(settings.datastream_state).service(NAME),
    )
    return (process,)


def _set_up_indices(settings: Any) -> None:
    """Without the templates, the first line would create an index with other types."""
    from jobs.sinks.elasticsearch import set_up_index  # noqa: PLC0415 (slow to import)

    client = make_elasticsearch_admin(settings)
    for name, path in SHOP.templates.items():
        set_up_index(client, getattr(settings, name), path)


def _find_fault(settings: Any) -> str | None:
    answer = make_local_session().get(f"{_url(settings)}/metrics", timeout=TIMEOUT_S)
    answer.raise_for_status()
    is_ours = "datastream_logstash_lines_total" in answer.text
    return None if is_ours else f"port {SERVICE.port(settings)} belongs to another program"


def _url(settings: Any) -> str:
    return f"http://{LOOPBACK}:{settings.shop_logstash_port}"


SERVICE = Service(
    name=NAME,
    title="Logstash's stand-in",
    setting="SHOP_LOGSTASH_PORT",
    memory_mib=120,
    url=_url,
    expected_at=_url,
    build=_build,
    prepare=_set_up_indices,
    find_fault=_find_fault,
    after=("elasticsearch",),
)
