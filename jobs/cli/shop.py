"""Commands for the shop: dbt."""

from __future__ import annotations

import typer

from jobs.cli.app import app, console
from jobs.settings import load
from jobs.shop.vertical import ShopSettings

shop = typer.Typer(help="The shop: transform its transactions with dbt.", no_args_is_help=True)
app.add_typer(shop, name="shop")


@shop.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def dbt(context: typer.Context) -> None:
    """Run a dbt command on the warehouse, for example `dbt build`. Its files are in .local/postgres/dbt."""
    from jobs.shop.transform import run_command

    settings = load(ShopSettings)
    target = settings.datastream_state / "postgres" / "dbt"
    results = run_command(settings, context.args, "manual", lambda line: console.print(line, markup=False), target)
    results.check()
