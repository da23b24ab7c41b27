"""Draw docs/dashboard.png: `python -m tests.testkit.dashboard`. It needs rides in Elasticsearch, and Chromium."""

from __future__ import annotations

import sys

from infra.kibana.saved_objects import objects_folder, read
from jobs.clients import make_elasticsearch_client
from jobs.errors import DatastreamError
from jobs.rides.vertical import RidesSettings
from jobs.settings import ROOT, load
from tests.testkit.dashboard.picture import draw

TARGET = ROOT / "docs" / "dashboard.png"


def main() -> None:
    try:
        settings = load(RidesSettings)
        draw(make_elasticsearch_client(settings), settings.rides_index, read(objects_folder("rides")), TARGET)
    except DatastreamError as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {TARGET}")


if __name__ == "__main__":
    main()
