"""The Spark driver: an HTTP server that keeps one warm engine and prices one claim of dag_compute_cost at a time.

    POST /batches {"manifest": url, "folder": url, "distance_method": name}
    GET /health

The answer to a batch is NDJSON: a line {"progress": text} every few seconds, at last {"manifest": url} or
{"error": text, "kind": "configuration" | "service" | "gone"}. If the client goes away, its work is cancelled.
"""

from __future__ import annotations

import json
import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import msgspec

from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError, StagedFilesGoneError
from jobs.files import Folder
from jobs.rides.distance import find_distance_function
from jobs.rides.spark.vertical import SparkSettings

log = logging.getLogger(__name__)

SERVER = "spark-driver"
# How often the server looks whether the client is there, and how often it writes a line.
LOOK_EVERY_S = 0.5
WRITE_EVERY_S = 3.0
# An engine that has not answered for so long is not ready: Java has stopped, or collects garbage all the time.
FROZEN_S = 30.0
# For a client to send its request, and to take a line.
_SOCKET_TIMEOUT_S = 10
_MAX_REQUEST_BYTES = 2**16
# For Spark to end a cancelled job before the process ends.
_CANCEL_S = 10


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request: the manifest with the claim, the folder for the outcomes, and the DISTANCE_METHOD."""

    manifest: str
    folder: str
    distance_method: str


class Engine(Protocol):
    """What prices claims (`jobs.rides.spark.batch.SparkEngine`). One thread prices, another one may call the rest."""

    def price(self, batch: Batch) -> str:
        """Price the claim; returns the URL of the manifest with the outcomes."""

    def describe_progress(self) -> str:
        """How far `price` is."""

    def cancel(self) -> None:
        """End `price` soon. Called repeatedly until it has ended."""

    def is_alive(self) -> bool:
        """Whether it can still price."""


class _GoneError(Exception):
    """The client has gone, or the server is being stopped."""


class Server(ThreadingHTTPServer):
    """Answers while the engine starts, works, and stops."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, settings: SparkSettings, host: str) -> None:
        """
        Raises:
            ConfigurationError: the port is taken.
        """
        self.staging = Folder(settings.staging)
        self._engine: Future[Engine] = Future()
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._seen_alive = 0.0
        try:
            super().__init__((host, settings.spark_driver_port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"The Spark driver cannot listen on {host}:{settings.spark_driver_port}: {error}. Set "
                "SPARK_DRIVER_PORT in .env, or stop the other program."
            ) from error

    @property
    def status(self) -> str:
        """ready, starting, stopping, or frozen: the engine does not answer."""
        if self._stopping.is_set():
            return "stopping"
        if not self._engine.done():
            return "starting"
        return "ready" if time.monotonic() - self._seen_alive < FROZEN_S else "frozen"

    def use(self, engine: Engine) -> None:
        """Price with this engine from now on."""
        self._seen_alive = time.monotonic()
        self._engine.set_result(engine)

    def check_engine(self) -> bool:
        """Whether the engine can still price. Waits while it does not answer; `status` says so."""
        is_alive = self._engine.result().is_alive()
        self._seen_alive = time.monotonic()
        return is_alive

    def stop(self) -> None:
        """Cancel the work, and accept no more."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._turn.acquire(timeout=_CANCEL_S)
        self.shutdown()

    def price(self, batch: Batch, client: _Client) -> str:
        """Wait for the engine and for other clients, then price; returns the URL of the manifest with the outcomes.

        Raises:
            _GoneError: the client has gone, or the server stops. The work has ended.
        """
        while not _has_ended(self._engine):
            self._look(client, "Spark is starting")
        while not self._turn.acquire(timeout=LOOK_EVERY_S):
            self._look(client, "waiting for another claim")
        try:
            return self._price(self._engine.result(), batch, client)
        finally:
            self._turn.release()

    def _price(self, engine: Engine, batch: Batch, client: _Client) -> str:
        with ThreadPoolExecutor(1) as pool:
            pricing = pool.submit(engine.price, batch)
            while not _has_ended(pricing):
                try:
                    self._look(client, engine.describe_progress())
                except _GoneError:
                    log.warning("Cancelling %s: the client has gone, or this server stops", batch.manifest)
                    # A job that has not begun yet cannot be cancelled.
                    while not _has_ended(pricing):
                        engine.cancel()
                    log.info("Cancelled %s", batch.manifest)
                    raise
            return pricing.result()

    def _look(self, client: _Client, progress: str) -> None:
        if self._stopping.is_set():
            raise _GoneError
        client.report(progress)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("A request of %s failed", client_address)


def _has_ended(work: Future[Any]) -> bool:
    """Wait for a moment; returns whether the work has ended."""
    try:
        work.exception(LOOK_EVERY_S)
    except FutureTimeoutError:
        return False
    return True


class _Client:
    """The client of one request."""

    def __init__(self, connection: socket.socket, write: Callable[[bytes], object]) -> None:
        self._connection = connection
        self._write = write
        self._written = time.monotonic()

    def report(self, progress: str) -> None:
        """Write a line with the progress if the last one is some seconds old.

        Raises:
            _GoneError: the client has closed the connection.
        """
        try:
            # It sends nothing after its request: what can be read is the end of the connection.
            if select.select([self._connection], [], [], 0)[0] and not self._connection.recv(1, socket.MSG_PEEK):
                raise _GoneError
        except OSError as error:
            raise _GoneError from error
        if time.monotonic() - self._written >= WRITE_EVERY_S:
            self.write({"progress": progress})

    def write(self, answer: dict[str, str]) -> None:
        """Write a line of the answer; raises _GoneError as `report` does."""
        try:
            self._write(json.dumps(answer).encode() + b"\n")
        except OSError as error:
            raise _GoneError from error
        self._written = time.monotonic()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = SERVER
    timeout = _SOCKET_TIMEOUT_S

    def do_GET(self) -> None:
        if self.path != "/health":
            self.send_error(404)
            return
        status = self.server.status
        self._begin(200 if status == "ready" else 503, "application/json")
        self.wfile.write(json.dumps({"service": SERVER, "status": status}).encode() + b"\n")

    def do_POST(self) -> None:
        client = _Client(self.connection, self.wfile.write)
        try:
            try:
                batch = self._read_batch()
            except ConfigurationError as error:
                self._begin(400, "application/x-ndjson")
                client.write(make_error(error))
                return
            self._begin(200, "application/x-ndjson")
            client.write(self._price(batch, client))
        except _GoneError:
            return

    def _price(self, batch: Batch, client: _Client) -> dict[str, str]:
        """The last line of the answer."""
        begun = time.monotonic()
        log.info("Pricing %s", batch.manifest)
        try:
            url = self.server.price(batch, client)
        except _GoneError:
            return make_error(ServiceUnavailableError("The Spark driver was stopped. Nothing was committed."))
        except DatastreamError as error:
            log.error("%s: %s", batch.manifest, error)
            return make_error(error)
        except Exception as error:
            log.exception("%s failed", batch.manifest)
            return make_error(ServiceUnavailableError(f"The Spark driver failed: {type(error).__name__}: {error}"))
        log.info("Priced %s in %.1f s", batch.manifest, time.monotonic() - begun)
        return {"manifest": url}

    def _read_batch(self) -> Batch:
        """
        Raises:
            ConfigurationError: the request is not valid, or names files outside of STAGING_URL.
        """
        size = self.headers.get("Content-Length", "")
        # A page in a browser cannot send this type to another server without asking it first.
        if self.path != "/batches" or self.headers.get_content_type() != "application/json" or not size.isdecimal():
            raise ConfigurationError("The Spark driver takes POST /batches with JSON.")
        if int(size) > _MAX_REQUEST_BYTES:
            raise ConfigurationError(f"The request has {size} bytes; at most {_MAX_REQUEST_BYTES} are accepted.")
        try:
            batch = msgspec.json.decode(self.rfile.read(int(size)), type=Batch)
        except msgspec.MsgspecError as error:
            raise ConfigurationError(f"The request is not valid: {error}") from error
        for url in (batch.manifest, batch.folder):
            if not self.server.staging.contains(url):
                raise ConfigurationError(
                    f"{url} is outside of {self.server.staging.url}, the STAGING_URL of the Spark driver. It must be "
                    "the same for Airflow and for the driver."
                )
        find_distance_function(batch.distance_method)
        return batch

    def _begin(self, code: int, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        log.debug(format, *args)


def make_error(error: DatastreamError) -> dict[str, str]:
    """The line of an answer for an error."""
    kinds = {ConfigurationError: "configuration", StagedFilesGoneError: "gone"}
    kind = next((kind for known, kind in kinds.items() if isinstance(error, known)), "service")
    return {"error": str(error), "kind": kind}


def serve(settings: SparkSettings, host: str, open_engine: Callable[[], AbstractContextManager[Engine]]) -> None:
    """Serve until SIGTERM or SIGINT. Answers while the engine starts.

    Args:
        host: the address to listen on.
        open_engine: starts the engine.

    Raises:
        ConfigurationError: the port is taken, or a setting of the engine is wrong.
        ServiceUnavailableError: the engine does not start, or has ended by itself.
    """
    stopped, has_died = threading.Event(), False
    with Server(settings, host) as server:

        def stop(*_: object) -> None:
            stopped.set()
            if server.status == "starting":
                raise _GoneError

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        log.info("Starting Spark; listening on %s:%d", host, settings.spark_driver_port)
        try:
            with open_engine() as engine:
                server.use(engine)
                log.info("Ready")
                while not stopped.wait(LOOK_EVERY_S) and not has_died:
                    has_died = not server.check_engine()
                server.stop()
        except Exception:
            # Java may have ended already, or first if the signal was for the whole group of processes.
            if not stopped.is_set() and not has_died:
                raise
        finally:
            server.stop()
    if has_died and not stopped.is_set():
        raise ServiceUnavailableError(
            "Spark has ended by itself: the memory did not suffice (SPARK_DRIVER_MEMORY), or its process was killed. "
            "The lines above say more. The Spark driver ends, so that it is started again."
        )
    log.info("Stopped")
