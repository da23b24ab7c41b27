"""The command for zones."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from jobs.cli.app import AsJson, app, console, error_console
from jobs.cli.rides import write_report_page
from jobs.clients import make_storage_client
from jobs.errors import DatastreamError
from jobs.settings import load
from jobs.terminal import escape, fit_table, print_json
from jobs.zones.vertical import ZonesSettings


@app.command()
def bqml(
    dry_run: Annotated[
        bool, typer.Option(help="Only check the statements and print the bytes that they would read.")
    ] = False,
    scan: Annotated[bool, typer.Option(help="Also train k = 4…12 zones.")] = True,
    teardown: Annotated[bool, typer.Option(help="Delete what the playbook created, and nothing else.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run infra/bigquery: zones, revenue by zone and comfort. On BigQuery if BIGQUERY_PROJECT is set, else locally.

    JSON: as .local/zones.json: zones, revenue by zone and comfort, sample.
    """
    from jobs.rides import zones as result
    from jobs.zones import playbook
    from jobs.zones import run as work
    from jobs.zones.show import Printer, build_revenue_table

    if as_json and (dry_run or teardown):
        raise typer.BadParameter("--json prints the result, which --dry-run and --teardown do not compute.")
    settings = load(ZonesSettings)
    messages = error_console if as_json else console
    values, client = playbook.build_parameters(settings), make_storage_client(settings)
    with work.open_engine(settings, client) as engine, closing(Printer(messages)) as printer:
        messages.print(f"On {engine.title}, gs://{values.bucket}/{values.prefix}")
        if teardown:
            typer.confirm(f"Delete what the playbook created in the dataset {values.dataset}?", abort=True)
            work.run(engine, playbook.read_steps("teardown"), values, printer)
            return
        steps = [step for step in playbook.read_steps(*playbook.USUAL) if scan or step.role != "scan"]
        reference = work.prepare(settings, client, values)
        messages.print(f"Reference file: {escape(str(reference))}")
        if dry_run or settings.bigquery_project:
            for step in steps:
                for statement in step.build_statements(values):
                    messages.print(f"{step.name}: {escape(engine.estimate(statement))}")
        if dry_run:
            return
        answers = work.run(engine, steps, values, printer)
        zones = work.collect(answers, engine.title, str(reference))
    path = settings.datastream_state / result.FILE
    result.write(zones, path)
    if as_json:
        print_json(zones)
    else:
        console.print(fit_table(console, build_revenue_table(zones)))
    messages.print(f"{zones.outside:,} of {zones.rides:,} rides start outside the trained area.")
    messages.print(f"Wrote {path}")
    try:
        write_report_page(messages)
    except DatastreamError as error:
        messages.print(f"[yellow]The report page was not updated:[/] {escape(str(error))}")
