"""Run gcp-storage-emulator so that it survives being killed: `python -m infra.local.gcs_emulator FOLDER HOST PORT`.

As it comes, it rewrites its one index file in place with every request; killed in the middle, it can never start again
and every object is lost. Indentation makes that slow: 78 ms for a new object beside 2,000 others, 16 without. It also
serves one connection at a time and waits for ever for a client that says nothing.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import msgspec
from gcp_storage_emulator.server import RequestHandler, create_server  # type: ignore[import-untyped]
from gcp_storage_emulator.storage import Storage, _FileStore  # type: ignore[import-untyped]

SILENCE_S = 30
# What Storage keeps in its index.
INDEXED = ("buckets", "objects", "resumable", "bucket_iam_policies", "soft_deleted")


def main(folder: str, host: str, port: int) -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(asctime)s %(levelname)-5s %(message)s")
    # It warns of its own health check at every call.
    logging.getLogger("gcp_storage_emulator.server").setLevel(logging.ERROR)
    _FileStore.write_bytes = _write_whole
    Storage._write_config_to_file = _write_index
    RequestHandler.timeout = SILENCE_S
    signal.signal(signal.SIGTERM, _interrupt)
    create_server(host, port, data_dir=folder).run()


def _write_whole(store: _FileStore, name: str, content: bytes) -> None:
    """Replace a file in one step instead of truncating it first."""
    path = store._disk_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No bucket can be called so: names of buckets start with a letter or a digit.
    partial = store._disk_path("_partial")
    partial.write_bytes(content)
    partial.replace(path)


def _write_index(storage: Storage) -> None:
    storage._store.write_bytes(".meta", msgspec.json.encode({name: getattr(storage, name) for name in INDEXED}))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # what the emulator's loop ends on


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
