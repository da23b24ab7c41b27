"""The command line: `python -m infra.kibana --help`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from infra.kibana import saved_objects
from infra.kibana.saved_objects import Key, Kibana
from jobs import settings as configuration
from jobs.errors import DatastreamError
from jobs.settings import ROOT

DASHBOARD = Key("dashboard", "rides")
DATA_VIEW = Key("index-pattern", "rides")

app = typer.Typer(
    help="Kibana's dashboard of rides: the readable files in infra/kibana/objects, and Kibana itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command()
def build() -> None:
    """Write infra/kibana/rides.ndjson from infra/kibana/objects."""
    objects = saved_objects.build()
    console.print(f"{saved_objects.NDJSON.relative_to(ROOT)}: {len(objects)} saved objects.")


@app.command("import")
def import_(
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Put ours back where objects exist, whatever was changed in Kibana.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for Kibana.", min=1)] = saved_objects.WAIT_S,
) -> None:
    """Bring the data view and the dashboard into Kibana. What exists there is left as it is. Harmless to repeat."""
    kibana = Kibana(configuration.load())
    objects = saved_objects.read()
    kibana.wait(timeout)
    done = saved_objects.import_objects(kibana, objects, overwrite=overwrite)
    kibana.default_data_view(DATA_VIEW.id)
    console.print(f"Kibana at {kibana.address}: {len(done.imported)} imported, {len(done.left)} left as they are.")


@app.command()
def export(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for Kibana.", min=1)] = 30,
) -> None:
    """Fetch the dashboard as it is in Kibana, and rewrite infra/kibana/objects and rides.ndjson."""
    kibana = Kibana(configuration.load())
    kibana.wait(timeout)
    objects = kibana.with_references(DASHBOARD)
    removed = saved_objects.write(objects.values())
    folder = saved_objects.OBJECTS.relative_to(ROOT)
    console.print(f"{folder}: {len(objects)} saved objects. `git diff {folder}` shows what changed.")
    if removed:
        console.print(f"Removed, because the dashboard does not use them: {', '.join(removed)}.")


@app.command()
def picture(
    target: Annotated[Path, typer.Argument(help="The PNG to write.")] = ROOT / "docs" / "dashboard.png",
) -> None:
    """Draw the dashboard from its own aggregations, as Elasticsearch answers them now. Needs chromium."""
    # What only this command needs takes a second to load.
    from infra.kibana.picture import draw  # noqa: PLC0415
    from jobs.clients import elasticsearch_client  # noqa: PLC0415

    settings = configuration.load()
    draw(elasticsearch_client(settings), settings.rides_index, saved_objects.read(), target)
    console.print(f"Drew {target}.")


def main() -> None:
    try:
        app()
    except DatastreamError as error:
        errors.print(f"[red]Error:[/] {escape(str(error))}")
        sys.exit(1)


if __name__ == "__main__":
    main()
