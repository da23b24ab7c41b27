"""Set up the warehouse: `python -m infra.postgres`. Harmless to repeat."""

from __future__ import annotations

import sys

from infra.postgres import set_up
from jobs.errors import DatastreamError
from jobs.settings import load
from jobs.shop.database import DATABASE, PASSWORDS
from jobs.shop.vertical import ShopSettings


def main() -> None:
    set_up(load(ShopSettings))
    print(f"Set up the database {DATABASE}, its schemas and the rights of {', '.join(PASSWORDS)}.")


if __name__ == "__main__":
    try:
        main()
    except DatastreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
