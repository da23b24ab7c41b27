"""The command line: `python -m infra.kibana --help`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from infra.kibana import saved_objects
from infra.kibana.rules import put_rules
from infra.kibana.saved_objects import Key, Kibana, NotFoundError
from jobs.errors import DatastreamError
from jobs.settings import ROOT, Settings, load
from jobs.terminal import escape, make_console, print_error
from jobs.vertical import Vertical
from jobs.verticals import find_verticals

app = typer.Typer(
    help="Kibana's dashboards and alert rules: the readable files in infra/kibana, and Kibana itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = make_console()


@app.command()
def build() -> None:
    """Write infra/kibana/<vertical>.ndjson from infra/kibana/objects/<vertical>."""
    for vertical in _with_dashboards():
        target = saved_objects.ndjson(vertical.name)
        objects = saved_objects.build(saved_objects.objects_folder(vertical.name), target)
        console.print(f"{target.relative_to(ROOT)}: {len(objects)} saved objects.")


@app.command("import")
def import_(
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Put ours back where objects exist, whatever was changed in Kibana.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for Kibana.", min=1)] = saved_objects.WAIT_S,
) -> None:
    """Bring data views and dashboards into Kibana. What exists there is left as it is. Harmless to repeat."""
    kibana = Kibana(load(Settings))
    kibana.wait(timeout)
    for vertical in _with_dashboards():
        objects = saved_objects.read(saved_objects.objects_folder(vertical.name))
        done = saved_objects.import_objects(kibana, objects, overwrite=overwrite)
        kibana.default_data_view(vertical.dashboard)  # the first one stays
        console.print(
            f"Kibana at {kibana.address}, {vertical.name}: {len(done.imported)} imported, {len(done.left)} left as "
            "they are."
        )


@app.command()
def rules(
    vertical: Annotated[str, typer.Argument(help="The vertical whose rules are set.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for Kibana.", min=1)] = saved_objects.WAIT_S,
) -> None:
    """Set and enable a vertical's alert rules, overwriting changes made in Kibana. Harmless to repeat."""
    kibana = Kibana(load(Settings))
    kibana.wait(timeout)
    try:
        names = put_rules(kibana, vertical)
    except NotFoundError as error:
        # Not a fault of the logs, which Logstash ships without rules too.
        console.print(f"[yellow]warning:[/] no alert rules were set: {escape(str(error))}")
    else:
        console.print(f"Kibana at {kibana.address}, {vertical}: set and enabled {len(names)} alert rules.")


@app.command()
def export(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for Kibana.", min=1)] = 30,
) -> None:
    """Fetch the dashboards as they are in Kibana, and rewrite infra/kibana/objects and the NDJSON files."""
    kibana = Kibana(load(Settings))
    kibana.wait(timeout)
    for vertical in _with_dashboards():
        objects = kibana.with_references(Key("dashboard", vertical.dashboard))
        path = saved_objects.objects_folder(vertical.name)
        removed = saved_objects.write(objects.values(), path, saved_objects.ndjson(vertical.name))
        folder = path.relative_to(ROOT)
        console.print(f"{folder}: {len(objects)} saved objects. `git diff {folder}` shows what changed.")
        if removed:
            console.print(f"Removed, because the dashboard does not use them: {', '.join(removed)}.")


def _with_dashboards() -> list[Vertical]:
    return [vertical for vertical in find_verticals() if vertical.dashboard]


def main() -> None:
    try:
        app()
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)


if __name__ == "__main__":
    main()
