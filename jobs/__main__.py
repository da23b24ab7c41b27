"""The command line: `python -m jobs --help`. The Makefile's targets call it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback

# Each module registers its commands; --help lists them in this order.
from jobs.cli import dead_letters, flow, ledger, stack  # noqa: F401
from jobs.cli.app import app, error_console
from jobs.errors import DatastreamError
from jobs.inherited import adopt_proxies
from jobs.ledger.verdict import Verdict
from jobs.terminal import print_error
from jobs.verticals import find_verticals

try:
    for _vertical in find_verticals():
        if importlib.util.find_spec(f"jobs.cli.{_vertical.name}") is not None:
            importlib.import_module(f"jobs.cli.{_vertical.name}")
except Exception as error:
    if isinstance(error, DatastreamError):
        print_error(error_console, error)
    else:
        traceback.print_exc()
    # 1 from the ledger would mean that messages are lost.
    sys.exit(Verdict.NO_VERDICT if sys.argv[1:2] == ["ledger"] else 1)


def main() -> None:
    """Run a command. A DatastreamError is printed without a traceback."""
    adopt_proxies()
    try:
        app()
    except DatastreamError as error:
        print_error(error_console, error)
        sys.exit(1)


if __name__ == "__main__":
    main()
