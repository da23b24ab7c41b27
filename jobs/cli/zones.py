"""The command of the zones."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer
from rich.markup import escape

from jobs.cli.app import app, console
from jobs.cli.rides import report
from jobs.clients import make_storage_client
from jobs.errors import DatastreamError
from jobs.settings import load
from jobs.zones.vertical import ZonesSettings


@app.command()
def bqml(
    dry_run: Annotated[
        bool, typer.Option(help="Only check the statements and tell the bytes they would read.")
    ] = False,
    scan: Annotated[bool, typer.Option(help="Try k = 4…12 as well.")] = True,
    teardown: Annotated[bool, typer.Option(help="Delete what the playbook made, and nothing else.")] = False,
) -> None:
    """Run infra/bigquery: zones, revenue by zone and comfort. On BigQuery if BIGQUERY_PROJECT is set, else here."""
    from jobs.rides import zones as result
    from jobs.zones import playbook
    from jobs.zones import run as work
    from jobs.zones.show import Printer, revenue_table

    settings = load(ZonesSettings)
    values, client = playbook.parameters(settings), make_storage_client(settings)
    with work.engine_of(settings, client) as engine, closing(Printer(console)) as printer:
        console.print(f"On {engine.title}, gs://{values.bucket}/{values.prefix}", soft_wrap=True)
        if teardown:
            typer.confirm(f"Delete what the playbook made in the dataset {values.dataset}?", abort=True)
            work.run(engine, playbook.steps("teardown"), values, printer)
            return
        steps = [step for step in playbook.steps(*playbook.USUAL) if scan or step.role != "scan"]
        reference = work.prepare(settings, client, values)
        console.print(f"Reference file: {reference}", soft_wrap=True)
        if dry_run or settings.bigquery_project:
            for step in steps:
                for statement in step.statements(values):
                    console.print(f"{step.name}: {escape(engine.estimate(statement))}", soft_wrap=True)
        if dry_run:
            return
        answers = work.run(engine, steps, values, printer)
        found = work.collect(answers, engine.title, str(reference))
    path = settings.datastream_state / result.FILE
    result.write(found, path)
    console.print(revenue_table(found))
    console.print(f"{found.outside:,} of {found.rides:,} rides start outside the trained area.")
    console.print(f"Wrote {path}", soft_wrap=True)
    try:
        report()
    except DatastreamError as error:
        console.print(f"[yellow]The report page stays as it is:[/] {escape(str(error))}", soft_wrap=True)
