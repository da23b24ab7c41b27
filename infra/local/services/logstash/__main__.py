"""Run the pipelines of a folder until SIGTERM: `python -m infra.local.services.logstash FOLDER PORT`.

A stand-in for Logstash, not Logstash: it knows the plugins and options that infra/logstash uses. The files are its
queue: it keeps its position only when Elasticsearch has acknowledged the events before. What it sends again after a
kill has the same id, so that Elasticsearch keeps one.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Signal

from elasticsearch import Elasticsearch
from prometheus_client import Counter, start_http_server

from infra.local.services.logstash.pipeline import Compiled, read_pipelines
from infra.local.services.logstash.plugins import Event
from jobs.errors import DatastreamError
from jobs.settings import LOOPBACK
from jobs.shop.log_files import Tail, decode_line
from jobs.sinks.documents import NotStoredError, create_documents

LINES = Counter("datastream_logstash_lines", "Lines that Elasticsearch has acknowledged.")
PAUSE_S = 0.5  # between two looks at the files, when there is nothing new


def run(folder: Path, port: int, stopped: Signal) -> None:
    """Move lines until `stopped` is set.

    Raises:
        ConfigurationError: as `read_pipelines`.
        NotStoredError: Elasticsearch did not answer before `stopped` was set.
    """
    app_logs, rejected = read_pipelines(folder)
    tail = Tail(Path(app_logs.input.path), Path(app_logs.input.sincedb_path))
    server, _ = start_http_server(port, LOOPBACK)
    while not stopped.is_set():
        lines = tail.read()
        refused = move(app_logs, [make_event(path, line) for path, line in lines], stopped)
        for event in move(rejected, refused, stopped):  # Logstash has no dead letters of dead letters either
            logging.error("Dropped an event that Elasticsearch refused twice: %s", event)
        try:
            tail.commit()
        except OSError:
            logging.exception("Cannot keep the position. The lines will be sent again")
            stopped.wait(PAUSE_S)
            continue
        LINES.inc(len(lines))
        if not lines:
            stopped.wait(PAUSE_S)
    server.shutdown()


def make_event(path: Path, line: bytes) -> Event:
    event = {"@timestamp": datetime.now(UTC), "@metadata": {}, "message": decode_line(line)}
    return event | {"log": {"file": {"path": str(path)}}, "host": {"name": socket.gethostname()}}


def move(pipeline: Compiled, events: list[Event], stopped: Signal) -> list[Event]:
    """Filter and send events; returns those that Elasticsearch refuses, with the reason."""
    if not events:
        return []
    for event in events:
        pipeline.filter(event)
        pipeline.output(event)
    metadata = [event.pop("@metadata") for event in events]
    output = metadata[0]["output"]
    with Elasticsearch(output.hosts, basic_auth=(output.user, output.password)) as client:
        refused = create_documents(client, [item["document"] for item in metadata], stopped)
    for number, answer in refused.items():
        response = json.dumps({"create": answer})
        reason = f"Could not index event to Elasticsearch. status: {answer['status']}, response: {response}"
        events[number]["@metadata"] = {"dead_letter_queue": {"reason": reason}}
    return [events[number] for number in refused]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopped = Signal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]), stopped)
    except NotStoredError as error:
        logging.warning("%s. The next start sends its lines again", error)
    except DatastreamError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
