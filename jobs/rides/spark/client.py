"""The client of the Spark driver, which prices claims of dag_compute_cost (jobs/rides/spark/driver.py)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError, StagedFilesGoneError

CONNECT_TIMEOUT_S = 5.0
# The driver writes a line every few seconds, whatever Spark does.
SILENCE_S = 60.0
REMEDY = (
    "It is part of the profile spark. With Docker: `docker compose --profile spark up -d --wait`. Without: "
    "`make spark-demo`. Or set the Variable COMPUTE_ENGINE to python: the next run then prices these messages."
)
ERRORS: dict[str, type[DatastreamError]] = {
    "configuration": ConfigurationError,
    "service": ServiceUnavailableError,
    "gone": StagedFilesGoneError,
}


class DriverClient:
    """Has the driver price one claim.

    Args:
        url: the driver's address.
        log: receives a line when the progress changes.
    """

    def __init__(self, url: str, log: Callable[[str], object], *, silence_s: float = SILENCE_S) -> None:
        self._url = url
        self._log = log
        self._timeout = httpx.Timeout(silence_s, connect=CONNECT_TIMEOUT_S)
        self._socket: socket.socket | None = None
        self._is_closed = False

    def price(self, manifest: str, folder: str, distance_method: str) -> str:
        """Price the claim of a manifest.

        Args:
            manifest: URL of a manifest that is not staged.
            folder: URL of the folder for the outcomes.

        Returns:
            URL of the manifest with the outcomes.

        Raises:
            ConfigurationError: the driver rejects the request, or a setting of Spark is wrong.
            ServiceUnavailableError: the driver does not answer, or Spark has failed. Nothing was committed.
            StagedFilesGoneError: the manifest was deleted, because its work is already committed.
        """
        request = {"manifest": manifest, "folder": folder, "distance_method": distance_method}
        last = ""
        for answer in self._ask(request):
            if "error" in answer:
                raise ERRORS.get(answer.get("kind", ""), ServiceUnavailableError)(answer["error"])
            if "manifest" in answer:
                return str(answer["manifest"])
            if (progress := str(answer.get("progress", ""))) != last:
                self._log(progress)
                last = progress
        reason = "this task was ended" if self._is_closed else "the driver ended"
        raise ServiceUnavailableError(
            f"The connection to the Spark driver at {self._url} was closed before its answer: {reason}. Nothing was "
            "committed; the next try starts again."
        )

    def close(self) -> None:
        """Close the connection, so that Spark cancels the work. Any thread or signal handler may call this."""
        self._is_closed = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already

    def _ask(self, request: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Send a request; yields each line of the answer."""
        try:
            with (
                httpx.Client(base_url=self._url, timeout=self._timeout, trust_env=False) as client,
                client.stream("POST", "/batches", json=request) as response,
            ):
                self._socket = response.extensions["network_stream"].get_extra_info("socket")
                for line in () if self._is_closed else response.iter_lines():
                    yield self._parse(line)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceUnavailableError(f"No Spark driver answers at {self._url}. {REMEDY}") from error
        except httpx.ReadTimeout as error:
            raise ServiceUnavailableError(
                f"The Spark driver at {self._url} sent nothing for {self._timeout.read:.0f} s: it hangs. Nothing was "
                "committed. Restart it if the next try fails too."
            ) from error
        except httpx.TransportError:
            return  # `price` says that the connection was closed

    def _parse(self, line: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceUnavailableError(
                f"{self._url} is not the Spark driver: it answers {line[:80]!r}. Set SPARK_DRIVER_URL, or "
                "SPARK_DRIVER_PORT if another program uses the port."
            )
        return answer
