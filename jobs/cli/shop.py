"""Commands for the shop: generate, dbt, page."""

from __future__ import annotations

import os
import sys

import typer

from jobs.cli.app import app, console
from jobs.environments import make_settings_variables
from jobs.inherited import make_environment
from jobs.settings import ROOT, load
from jobs.shop.vertical import ShopSettings

shop = typer.Typer(
    help="The shop: generate transactions, transform them with dbt, write its page.", no_args_is_help=True
)
app.add_typer(shop, name="shop")
forwarded = shop.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False
)


@forwarded
def generate(context: typer.Context) -> None:
    """Run producer/shop/generator.py with the addresses and names of the settings. Accepts its options."""
    settings = load(ShopSettings)
    variables = make_settings_variables(ShopSettings, settings)
    variables |= {"SHOP_BROKER": settings.bootstrap_servers, "SHOP_LOADER_PASSWORD": settings.shop_loader_password}
    command = [sys.executable, str(ROOT / "producer" / "shop" / "generator.py"), *context.args]
    os.execve(sys.executable, command, make_environment(variables))  # noqa: S606 (our own program, no shell)


@shop.command()
def page() -> None:
    """Write the HTML page about sales, from the marts."""
    from jobs.shop.page import write_page

    console.print(f"Wrote {write_page(load(ShopSettings))}")


@forwarded
def dbt(context: typer.Context) -> None:
    """Run a dbt command on the warehouse, for example `dbt build`. Its files are in .local/postgres/dbt."""
    from jobs.shop.transform import run_command

    settings = load(ShopSettings)
    target = settings.datastream_state / "postgres" / "dbt"
    results = run_command(settings, context.args, "manual", lambda line: console.print(line, markup=False), target)
    results.check()
