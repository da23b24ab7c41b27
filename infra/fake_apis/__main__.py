"""Serve the stand-in APIs: `python -m infra.fake_apis HOST PORT`."""

from __future__ import annotations

import sys

import uvicorn

from infra.fake_apis.app import app


def main(host: str, port: int) -> None:
    # Requests have the key in their URL.
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
