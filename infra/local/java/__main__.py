"""Copy the jars of a set into a folder, downloaded if needed: `python -m infra.local.java SET FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from infra.local.java import jars
from jobs.errors import DatastreamError


def main() -> None:
    name, folder = sys.argv[1:]
    try:
        jars.fetch([name], print)
    except DatastreamError as error:
        sys.exit(f"error: {error}")
    jars.copy(name, Path(folder))


if __name__ == "__main__":
    main()
