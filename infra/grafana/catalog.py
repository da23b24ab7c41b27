"""All dashboards, and the files that Grafana reads."""

from __future__ import annotations

from pathlib import Path

from infra.grafana import business, data, kafka, pipeline, services
from jobs.settings import ROOT

FOLDER = ROOT / "infra" / "grafana" / "dashboards"
DASHBOARDS = (pipeline.DASHBOARD, kafka.DASHBOARD, data.DASHBOARD, business.DASHBOARD, services.DASHBOARD)


def encode_dashboards() -> dict[Path, str]:
    """The content of each dashboard's file."""
    return {FOLDER / f"{dashboard.name}.json": dashboard.encode() for dashboard in DASHBOARDS}
