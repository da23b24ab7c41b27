"""The environment of a campaign: a stack with gateways in front of both sinks, the feed, and a watch on the offsets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from confluent_kafka import KafkaException
from rich.console import Console

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services import spark_driver
from infra.local.services.catalog import local_stack
from jobs.airflow_api import sign_in
from jobs.clients import make_elasticsearch_admin, make_kafka_config, make_storage_client
from jobs.rides.vertical import VERTICAL as RIDES
from jobs.settings import LOOPBACK, ROOT, Settings
from jobs.vertical import Engine
from tests.faults import tasks
from tests.faults.feed import Feed
from tests.faults.gateway import Gateway, is_bulk, is_upload
from tests.faults.reading import Offsets
from tests.testkit.kafka import Config
from tests.testkit.stack import start_guardian
from tests.testkit.wait import until

PARTITIONS = 6
PRICING_GROUP = "dag_compute_cost"
SINK_GROUPS = ("dag_index_and_export", "dag_index_and_export.PutGCP")
# Rides per second, and how many of them make a chunk: few and small, so that each task works on many chunks for a
# while, and a moment in the middle of its work can be hit. A run has about 50 of each partition, so that chunks share a
# transaction and a run still has several. The export runs nearly as often as the indexing.
RATE = 100
CHUNK_RECORDS = 100
EXPORT_MAX_AGE_S = 1
PATIENCE_S = 600
# The variables of this shell that commands get, besides those of the stack.
_KEPT = ("HOME", "LANG", "PATH", "TMPDIR")


class StoppedError(Exception):
    """The campaign is being ended: Ctrl-C, or a fault in the other lane."""


class Moment(NamedTuple):
    """Where the groups were at a time (of time.monotonic), and where the results ended."""

    at: float
    priced: dict[int, int]
    sunk: dict[int, int]
    results: dict[int, int]


class Mark(NamedTuple):
    """What had been sent and published when a fault struck."""

    at: float
    raw: dict[int, int]
    results: dict[int, int]


class Watch:
    """Notes four times a second where the groups are."""

    def __init__(self, settings: Settings, feed: Feed) -> None:
        self.moments: list[Moment] = []
        self._settings, self._feed = settings, feed
        self._offsets = Offsets(make_kafka_config(settings), PARTITIONS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            # While the broker is away there is nothing to note.
            with suppress(KafkaException):
                self.moments.append(self.look())
        self._offsets.close()

    def look(self) -> Moment:
        raw, result = self._settings.raw_topic, self._settings.result_topic
        results = self._offsets.ends(result)
        priced = self._offsets.committed(PRICING_GROUP, raw)
        sunk = [self._offsets.committed(group, result) for group in SINK_GROUPS]
        slowest = {partition: min(group[partition] for group in sunk) for partition in range(PARTITIONS)}
        return Moment(time.monotonic(), priced, slowest, results)

    def mark(self) -> Mark:
        """What is there now."""
        return Mark(time.monotonic(), self._feed.ends(), self.moments[-1].results if self.moments else {})

    def recovered(self, mark: Mark, *, prices: bool, sinks: bool) -> float | None:
        """When all that was there at the mark had been priced and published, and had reached both sinks.

        Returns:
            Seconds since the mark; None if that is still to come.
        """
        results = mark.results if not prices else None
        for moment in self.moments:
            if moment.at < mark.at:
                continue
            if results is None:
                if not _passed(moment.priced, mark.raw):
                    continue
                results = moment.results
            if not sinks or _passed(moment.sunk, results):
                return moment.at - mark.at
        return None

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)


def _passed(positions: dict[int, int], ends: dict[int, int]) -> bool:
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())


class Airflow:
    """Airflow's REST API, as people use it."""

    def __init__(self, settings: Settings) -> None:
        with sign_in(settings) as (self._session, self._url):
            pass

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._session.request(method, f"{self._url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """Every try of a task as Airflow has recorded it."""
        answer = self._call("GET", f"/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/tries")
        names = ("try_number", "state", "start_date", "end_date")
        return [{name: instance[name] for name in names} for instance in answer["task_instances"]]

    def runs(self, dag_id: str, state: str) -> list[str]:
        """The latest runs in a state."""
        path = f"/{dag_id}/dagRuns?limit=20&order_by=-start_date&state={state}"
        return [run["dag_run_id"] for run in self._call("GET", path)["dag_runs"]]

    def clear(self, dag_id: str, run_id: str, task_ids: list[str] | None) -> list[str]:
        """Clear tasks of a run, or all of them, with what follows; the tasks that are run again."""
        body: dict[str, Any] = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "reset_dag_runs": True}
        if task_ids:
            body |= {"task_ids": task_ids, "include_downstream": True}
        answer = self._call("POST", f"/{dag_id}/clearTaskInstances", body)
        return [instance["task_id"] for instance in answer["task_instances"]]


class Environment:
    """What faults use: the stack, its processes, the gateways, the feed and the watch."""

    def __init__(self, settings: Settings, direct: Settings, gateways: tuple[Gateway, Gateway], seed: int) -> None:
        self.settings, self.direct = settings, direct
        self.elasticsearch_gateway, self.gcs_gateway = gateways
        self.kafka: Config = make_kafka_config(direct)
        self.elasticsearch = make_elasticsearch_admin(direct)
        self.gcs = make_storage_client(direct)
        self.airflow = Airflow(direct)
        self.tasks = tasks.Tasks(settings)
        self._offsets = threading.local()
        self._frozen: set[int] = set()
        self.paths = Paths(settings.datastream_state)
        self.feed = Feed(self.kafka, direct.raw_topic, seed, RATE)
        self.watch = Watch(direct, self.feed)
        self.stopped = threading.Event()
        self._scheduler = (0.0, 0)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets, read with a client that only this thread uses."""
        if not hasattr(self._offsets, "client"):
            self._offsets.client = Offsets(self.kafka, PARTITIONS)
        offsets: dict[int, int] = self._offsets.client.committed(group, topic)
        return offsets

    def freeze(self, pid: int) -> bool:
        """SIGSTOP; False if the process has ended."""
        self._frozen.add(pid)
        return tasks.send(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> bool:
        """SIGCONT; False if the process has ended."""
        self._frozen.discard(pid)
        return tasks.send(pid, signal.SIGCONT)

    def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            StoppedError: the campaign is being ended.
        """
        if self.stopped.wait(seconds):
            raise StoppedError

    def until(self, condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Wait until a condition is true.

        Raises:
            StoppedError: the campaign is being ended.
        """
        until(condition, what, within_s, self.pause)

    def running(self) -> list[tasks.Try]:
        """The tries that the present scheduler has under way."""
        read_at, pid = self._scheduler
        if not pid or time.monotonic() - read_at > 1:
            self._scheduler = time.monotonic(), self.tasks.scheduler()
        return self.tasks.running(self._scheduler[1])

    def pid(self, process: str) -> int:
        """The process id of a service; 0 while it is down."""
        state = supervisor.read_states(self.paths).get(process)
        return state.pid if state else 0

    def jobs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m jobs` on this stack, past the gateways."""
        command = [sys.executable, "-m", "jobs", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=_variables(self.direct), text=True, capture_output=True, check=False, timeout=900
        )

    def close(self) -> None:
        for pid in list(self._frozen):
            self.thaw(pid)
        self.feed.close()
        self.watch.close()


def _variables(settings: Settings) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | export_settings(settings) | {"COLUMNS": "200", "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}


@contextmanager
def prepared(seed: int, engine: Engine, console: Console) -> Iterator[Environment]:
    """Start a stack with both DAGs on; stop it in the end, and delete it unless an error makes it evidence.

    Args:
        engine: the COMPUTE_ENGINE of dag_compute_cost.
    """
    direct: Any = isolated_settings(
        Path(tempfile.mkdtemp(prefix="ds-faults-")).resolve(),
        gcs_bucket="datastream",
        poll_wait_s=1,
        chunk_records=CHUNK_RECORDS,
        export_max_age_s=EXPORT_MAX_AGE_S,
        compute_engine=engine,
    )
    state = direct.datastream_state
    guardian = start_guardian(state)
    keep = True
    with ExitStack() as closing:
        closing.callback(lambda: _end(guardian, state, keep=keep, console=console))
        closing.callback(local_stack(direct, console).down)
        gateways = (
            closing.enter_context(Gateway(direct.elasticsearch_port, is_bulk)),
            closing.enter_context(Gateway(direct.gcs_port, is_upload)),
        )
        settings = direct.model_copy(update={"elasticsearch_url": gateways[0].url, "gcs_emulator_url": gateways[1].url})
        local_stack(settings, console).up([*RIDES.services, *([spark_driver.NAME] if engine == "spark" else [])])
        environment = Environment(settings, direct, gateways, seed)
        closing.callback(environment.close)
        for command in ("topics", "template", "unpause"):
            done = environment.jobs(command)
            assert done.returncode == 0, f"python -m jobs {command}:\n{done.stdout}{done.stderr}"
        try:
            yield environment
        except KeyboardInterrupt:
            keep = False
            raise
        keep = False


def _end(guardian: subprocess.Popen[bytes], state: Path, *, keep: bool, console: Console) -> None:
    if keep:
        # The guardian deletes the folder when its pipe closes. Jars, sockets and secrets prove nothing.
        kept = state.with_name(f"{state.name}-evidence")
        shutil.copytree(state, kept, ignore=shutil.ignore_patterns("home", "run", "tmp", "secrets"), dirs_exist_ok=True)
        console.print(f"The stack's data and logs are kept in {kept}", soft_wrap=True)
    guardian.communicate(timeout=120)
    shutil.rmtree(state, ignore_errors=True)
