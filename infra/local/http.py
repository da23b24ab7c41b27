"""HTTP on the loopback, past any proxy that the environment names."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: dict[str, Any] | None = None, timeout_s: float = 3) -> Any:
    """GET, or POST a JSON body; returns the JSON answer.

    Raises:
        OSError: no connection, no answer in time, or (urllib.error.HTTPError) a status of 400 and above.
        ValueError: the answer is not JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (URLs built here)
    with _direct.open(request, timeout=timeout_s) as answer:
        return json.load(answer)


def reason(error: Exception) -> str:
    """One line on why a call failed."""
    if isinstance(error, urllib.error.HTTPError):
        return f"answers HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return f"not answering ({error.reason})"
    return f"not answering ({error})"
