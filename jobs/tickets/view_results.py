"""Shows the outputs: tables in the terminal, and one HTML page: `python view_results.py --help`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.table import Column, Table

from jobs.errors import ConfigurationError, DatastreamError
from jobs.pages.page import write
from jobs.settings import load
from jobs.terminal import escape, fit_table, make_console, print_error
from jobs.tickets.owner import become_owner
from jobs.tickets.page import describe_runs, render_page
from jobs.tickets.reader import Outputs, load_outputs
from jobs.tickets.vertical import TicketsSettings

TABLES = {
    "metrics": "UNPIVOT metrics ON * INTO NAME metric VALUE count",
    "tickets_by_type": "FROM tickets_by_type",
    "tickets_by_priority": "FROM tickets_by_priority",
    "rejects": "SELECT reason, count(*) AS count FROM rejects GROUP BY reason ORDER BY count DESC, reason",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = make_console()


@app.command()
def main(ticket: Annotated[str, typer.Option(help="Show only where the ticket with this ticket_id is.")] = "") -> None:
    """Show the outputs in OUTPUT_PATH, whichever format they have, and write tickets.html there."""
    settings = load(TicketsSettings)
    try:
        outputs = load_outputs(settings.tickets_output_path)
        if ticket:
            show_ticket(outputs, ticket.strip().lower())
            return
        show_tables(outputs)
        if settings.tickets_environment == "docker":
            become_owner(settings.tickets_output_path)
        write(settings.tickets_page, render_page(outputs))
    except DatastreamError as error:
        print_error(make_console(stderr=True), error)
        sys.exit(1)
    console.print(f"Wrote {settings.tickets_page}")


def show_tables(outputs: Outputs) -> None:
    """Print a table for each of the small outputs, and the rejects by reason."""
    for title, sql in TABLES.items():
        rows = outputs.query(sql)
        name, _ = rows[0] if rows else ("reason", "count")
        table = Table(name, Column("count", justify="right"), title=title, title_justify="left")
        for row in rows:
            text, count = row.values()
            table.add_row(escape(text), f"{count:,}")
        console.print(fit_table(console, table))
    for line in describe_runs(outputs):
        console.print(f"[yellow]{escape(line)}[/]")


def show_ticket(outputs: Outputs, ticket_id: str) -> None:
    """Print the ticket and all rejected messages with this id.

    Raises:
        ConfigurationError: there are none.
    """
    found = outputs.tables.execute(
        "SELECT 'ticket' AS place, kafka_partition AS p, kafka_offset AS o, concat_ws(', ', assigned_team, priority, "
        "client_id, request) AS text FROM tickets_with_assignment WHERE ticket_id = $1 UNION ALL "
        "SELECT 'reject', partition, \"offset\", concat_ws(': ', reason, detail) FROM rejects "
        "WHERE contains(lower(text), $1) ORDER BY ALL",
        [ticket_id],
    ).fetchall()
    if not found:
        raise ConfigurationError(f"There is no ticket {ticket_id!r} in the outputs.")
    for place, partition, offset, text in found:
        console.print(f"{place}  partition {partition}, offset {offset}: {escape(text)}")


if __name__ == "__main__":
    app()
