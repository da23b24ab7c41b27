"""The declaration of the observability vertical."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from jobs.settings import ROOT, Name, Port, Settings
from jobs.vertical import Vertical


class ObservabilitySettings(Settings):
    """The settings of observability."""

    observability_prometheus_port: Port = 9090
    observability_alertmanager_port: Port = 9093
    observability_grafana_port: Port = 3000
    # Metrics by HTTP; without Docker also Airflow's StatsD packets, on the UDP port of the same number.
    observability_exporter_port: Port = 9309
    # A development default. `make up` generates a password.
    observability_grafana_password: Name = "changeme"  # noqa: S105

    # A file with receivers of alerts, as an absolute path or one from infra/.
    observability_receivers: str = ""
    # Minutes between two ledgers; 0 takes none.
    observability_ledger_minutes: Annotated[float, Field(ge=0)] = 15

    @property
    def receivers_file(self) -> Path | None:
        """The file with receivers of alerts; None: alerts are only shown."""
        # Docker Compose resolves relative paths from infra/.
        path = self.observability_receivers
        return ROOT / "infra" / path if path else None


VERTICAL = Vertical(
    name="observability",
    settings=ObservabilitySettings,
    services=("exporter", "prometheus", "alertmanager"),
)
