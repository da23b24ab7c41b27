"""Commands for observability."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.app import app
from jobs.settings import LOOPBACK, load
from jobs.verticals import find_verticals, merge_settings


@app.command()
def serve_metrics(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = LOOPBACK,
) -> None:
    """Serve the metrics that no public exporter has: lag in seconds, held back offsets, ledgers. For Docker.

    Without Docker, `make observe` starts an exporter that serves all metrics.
    """
    from jobs.observability.server import make_own_probes, serve

    settings: Any = load(merge_settings())
    serve(make_own_probes(settings, find_verticals(), own_only=True), host, settings.observability_exporter_port)
