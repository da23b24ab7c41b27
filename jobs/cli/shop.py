"""Commands for the shop: generate, transform, forecast, page, trace, dbt."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.table import Column, Table

from jobs import airflow_api
from jobs.cli.app import AsJson, app, console, error_console, progress_bars, show_in
from jobs.cli.sightings import show_trace
from jobs.clients import Systems
from jobs.environments import make_settings_variables
from jobs.inherited import make_environment
from jobs.settings import ROOT, load
from jobs.shop.vertical import TRANSFORM_DAG, VERTICAL, ShopSettings
from jobs.terminal import escape, fit_table, print_json

shop = typer.Typer(
    help="The shop: generate transactions, transform them with dbt, forecast the revenue, write the page, trace one "
    "transaction.",
    no_args_is_help=True,
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
    # Only where something ships it: the ledger waits for every line.
    variables |= {"SHOP_LOG_FILE": str(settings.shop_log)} if settings.shop_logstash_data.exists() else {}
    command = [sys.executable, str(ROOT / "producer" / "shop" / "generator.py"), *context.args]
    os.execve(sys.executable, command, make_environment(variables))  # noqa: S606 (our own program, no shell)


@shop.command()
def transform(
    timeout: Annotated[float, typer.Option(help="The maximum time to wait, in seconds.", min=1)] = 600,
) -> None:
    """Run dbt_transform in Airflow, and wait until it has ended."""
    settings = load(ShopSettings)
    run = airflow_api.trigger(settings, TRANSFORM_DAG, {})
    with error_console.status(f"Waiting for {TRANSFORM_DAG}"):
        airflow_api.wait_for_run(settings, TRANSFORM_DAG, run, timeout)
    console.print(f"Built and tested the marts: run {run} of {TRANSFORM_DAG}.")


@shop.command()
def forecast(as_json: AsJson = False) -> None:
    """Forecast the revenue of the next 7 days from the marts, and compare earlier forecasts with a baseline.

    The baseline is the same weekday of the week before. The result replaces
    marts.revenue_forecast and marts.revenue_forecast_evaluation. JSON: days:
    day, predicted, lower, upper, baseline, trained_until, trained_at; score:
    forecasts, days, revenue, model_error, baseline_error; is_better.
    """
    from jobs.shop.forecast import forecast_revenue

    settings = load(ShopSettings)
    with error_console.status("Forecasting"):
        made = forecast_revenue(settings)
    if as_json:
        print_json({"days": made.days, "score": made.score, "is_better": made.score.is_better})
        return
    headers = ("predicted", "lower", "upper", "week before")
    table = Table("day", *(Column(header, justify="right") for header in headers))
    for day in made.days:
        amounts = (day.predicted, day.lower, day.upper, day.baseline)
        table.add_row(f"{day.day:%a %Y-%m-%d}", *(f"{amount:,.2f}" for amount in amounts))
    console.print(f"Revenue after {made.days[0].trained_until}; 80 % of the days are expected from lower to upper")
    console.print(fit_table(console, table))
    console.print(made.score.errors)
    console.print(made.score.verdict)


@shop.command()
def wait_for_logs(
    timeout: Annotated[float, typer.Option(help="The maximum time to wait, in seconds.", min=1)] = 120,
) -> None:
    """Wait until the log lines that are written are in Elasticsearch. Exit code 3: not in time."""
    from jobs.shop.log_ledger import wait_until_shipped

    with error_console.status("Waiting for the log lines"):
        wait_until_shipped(load(ShopSettings), timeout)


@shop.command()
def page() -> None:
    """Write the HTML page about sales, from the marts."""
    from jobs.shop.page import write_page

    console.print(f"Wrote {write_page(load(ShopSettings))}")


@shop.command()
def trace(transaction: Annotated[str, typer.Argument(help="A transaction_id.")], as_json: AsJson = False) -> None:
    """Show where a transaction is: in the topics, raw data and the marts. Exit code 1 if it is nowhere.

    Also shows the log lines of the runs that processed it. JSON:
    transaction_id; sightings: place, position, error, content; log. The
    content is the text of a message, {"base64": …} if it is not UTF-8, or an
    object.
    """
    from jobs.shop.trace import trace as trace_transaction

    transaction_id = transaction.strip()
    settings = load(ShopSettings)
    with progress_bars() as bars:
        sightings = list(trace_transaction(Systems(settings, show_in(bars)), transaction_id))
    show_trace(settings, VERTICAL, {"transaction_id": transaction_id}, sightings, as_json=as_json)
    if not sightings:
        error_console.print(f"Transaction {escape(transaction_id)} was not found in Kafka or PostgreSQL.")
        raise typer.Exit(1)


@forwarded
def dbt(context: typer.Context) -> None:
    """Run a dbt command on the warehouse, for example `dbt build`. Its files are in .local/postgres/dbt."""
    from jobs.shop.transform import run_command

    settings = load(ShopSettings)
    target = settings.datastream_state / "postgres" / "dbt"
    results = run_command(settings, context.args, "manual", lambda line: console.print(line, markup=False), target)
    results.check()
