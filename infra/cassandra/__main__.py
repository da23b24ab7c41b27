"""Set up the flights' keyspace: `python -m infra.cassandra`. Harmless to repeat."""

from __future__ import annotations

import sys

from infra.cassandra import set_up
from jobs.errors import DatastreamError
from jobs.flights.cassandra import KEYSPACE, PASSWORDS
from jobs.flights.vertical import FlightsSettings
from jobs.settings import load


def main() -> None:
    set_up(load(FlightsSettings))
    print(f"Set up the keyspace {KEYSPACE}, its tables and the rights of {', '.join(PASSWORDS)}.")


if __name__ == "__main__":
    try:
        main()
    except DatastreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
