"""The faults. Each function waits for its moment, strikes, heals what it broke, and returns the proof that it hit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import msgspec
import psutil

from infra.local.runner import supervisor
from tests.faults import tasks
from tests.faults.gateway import Gateway, Refusal, Trap
from tests.faults.ground import PARTITIONS, Ground, Mark
from tests.faults.tasks import Glimpse, Try

COMPUTE, INDEX = "dag_compute_cost", "dag_index_and_export"
# The tasks of the second DAG that stage files.
STAGING_SINKS = ("ConsumeKafka", "TransformJSON", "PutElasticSearch", "PutGCP")
# The others stage a file for each chunk, this one just what Elasticsearch refuses.
ONE_FILE = "PutElasticSearch"
# How long a task of the right name may take to come and to be hit at work.
HUNT_S = 600
# A retry begins after Airflow's heartbeat timeout (30 s), its detection and the retry delay.
RETRY_S = 300
# How long a zombie that woke up may work before Airflow can end it.
ZOMBIE_S = 10
# Smaller than any file that a task stages.
SMALL_DISK_BYTES = 512

Lane = Literal["compute", "index", "both"]
Ready = Callable[[Try], bool]


class Struck(msgspec.Struct):
    """A fault that hit: when, what was at work, and what else proves it."""

    mark: Mark
    what: str
    glimpses: list[Glimpse]
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    hit: list[Try] = msgspec.field(default_factory=list)


class Target(msgspec.Struct, frozen=True):
    """What a fault aims at, and which DAG it holds up, so that only one fault at a time does."""

    name: str
    lane: Lane
    strike: Callable[[Ground, random.Random], Struck]


# --- Catching a task at work -------------------------------------------------------------------


def _catch(ground: Ground, dag_id: str, task_id: str, ready: Callable[[], Ready]) -> tuple[Try, Glimpse]:
    """Wait until a try of a task is ready to be hit, freeze it, and see that it is at work.

    Args:
        ready: makes, for each try, what says that its moment has come.
    """
    done: set[tuple[Any, ...]] = set()
    deadline = time.monotonic() + HUNT_S
    while True:
        assert time.monotonic() < deadline, f"{dag_id}.{task_id} was not found at work within {HUNT_S} s"
        for found in ground.running():
            if (found.dag_id, found.task_id) != (dag_id, task_id) or (*found.key, found.number) in done:
                continue
            if glimpse := _caught(ground, found, ready()):
                return found, glimpse
            done.add((*found.key, found.number))
        ground.pause(0.01)


def _caught(ground: Ground, found: Try, ready: Ready) -> Glimpse | None:
    """Freeze a try when it is ready; how it looks then, or None if its work was over before."""
    while tasks.is_alive(found.child):
        if not ready(found):
            ground.pause(0.0005)
            continue
        if glimpse := _freeze(ground, found):
            return glimpse
        ground.thaw(found.child)
        if tasks.is_done(found):
            return None
        ground.pause(0.01)
    return None


def _freeze(ground: Ground, found: Try) -> Glimpse | None:
    """Freeze a task; how it looks then, or None if it was not at work."""
    ground.freeze(found.child)
    deadline = time.monotonic() + 2
    # Its log, which another process writes, needs a moment to catch up.
    while not (tasks.is_frozen(found.child) and tasks.is_at_work(found)):
        if time.monotonic() > deadline or tasks.is_done(found) or not tasks.is_alive(found.child):
            return None
        ground.pause(0.01)
    return ground.tasks.glimpse(found)


def _staged(ground: Ground, rng: random.Random, task_id: str) -> Callable[[], Ready]:
    """Ready when some files are staged, and not all."""
    count = 1 if task_id == ONE_FILE else rng.randint(1, PARTITIONS - 1)

    def is_ready(found: Try) -> bool:
        files = ground.tasks.staged(found)
        return len(files) >= count and "manifest.json" not in files

    return lambda: is_ready


def _speaking_to_kafka(rng: random.Random, most_s: float) -> Callable[[], Ready]:
    """Ready some time after Kafka's client has come to life in the task."""

    def ready() -> Ready:
        at = 0.0

        def is_ready(found: Try) -> bool:
            nonlocal at
            if not at and tasks.kafka_threads(found.child):
                at = time.monotonic() + rng.uniform(0, most_s)
            return bool(at) and time.monotonic() >= at

        return is_ready

    return ready


def _publishing(ground: Ground) -> Callable[[], Ready]:
    """Ready when at least one chunk of the run is committed, and not all: certainly behind init_transactions."""

    def is_ready(found: Try) -> bool:
        if not tasks.kafka_threads(found.child):
            return False
        chunks, done = chunks_committed(ground, found)
        return 0 < done < chunks

    return lambda: is_ready


def chunks_committed(ground: Ground, of: Try) -> tuple[int, int]:
    """How many chunks the run of a PublishKafka or CommitOffsets has, and how many its group has passed."""
    source, topic, group = (
        ("ComputeCostTravel", ground.direct.raw_topic, COMPUTE)
        if of.dag_id == COMPUTE
        else ("TransformJSON", ground.direct.result_topic, INDEX)
    )
    manifest = ground.tasks.manifest(of, source)
    if manifest is None:
        return 0, 0
    at = ground.committed(group, topic)
    chunks = manifest["chunks"]
    return len(chunks), sum(at[chunk["partition"]] > chunk["last"] for chunk in chunks)


@contextmanager
def _writing(ground: Ground, gateway: Gateway, task_id: str, rng: random.Random) -> Iterator[tuple[Trap, Try]]:
    """Hold one of a task's writes to a service while the fault strikes; before or after the service has done it."""
    trap = gateway.trap = Trap(rng.randint(1, 5), after=rng.random() < 0.5)
    try:
        ground.until(trap.caught.is_set, f"a write of {task_id}", HUNT_S)
        yield trap, next(found for found in ground.running() if found.task_id == task_id)
    finally:
        trap.release()
        gateway.trap = None


def _held(trap: Trap) -> dict[str, Any]:
    return {"request_in_flight": trap.request, "service_had_done_it": trap.after}


# --- SIGKILL of a task -------------------------------------------------------------------------


def kill_publish_kafka(ground: Ground, rng: random.Random) -> Struck:
    """Mostly in the middle of its chunks; else at any moment."""
    ready = _publishing(ground) if rng.random() < 0.7 else _speaking_to_kafka(rng, 1)
    found, glimpse = _catch(ground, COMPUTE, "PublishKafka", ready)
    return _kill_publisher(ground, found, glimpse)


def kill_commit_offsets(ground: Ground, rng: random.Random) -> Struck:
    found, glimpse = _catch(ground, INDEX, "CommitOffsets", _speaking_to_kafka(rng, 0.2))
    return _kill_publisher(ground, found, glimpse)


def _kill_publisher(ground: Ground, found: Try, glimpse: Glimpse) -> Struck:
    chunks, done = chunks_committed(ground, found)
    return _kill(ground, found, glimpse, {"chunks": chunks, "chunks_committed": done})


def kill_at_staging(dag_id: str, task_id: str) -> Callable[[Ground, random.Random], Struck]:
    def strike(ground: Ground, rng: random.Random) -> Struck:
        found, glimpse = _catch(ground, dag_id, task_id, _staged(ground, rng, task_id))
        return _kill(ground, found, glimpse, {"files_staged": len(glimpse.staged)})

    return strike


def kill_at_writing(task_id: str) -> Callable[[Ground, random.Random], Struck]:
    def strike(ground: Ground, rng: random.Random) -> Struck:
        with _writing(ground, _gateway_of(ground, task_id), task_id, rng) as (trap, found):
            return _kill(ground, found, ground.tasks.glimpse(found), _held(trap))

    return strike


def _gateway_of(ground: Ground, task_id: str) -> Gateway:
    return ground.elasticsearch_gateway if task_id == "PutElasticSearch" else ground.gcs_gateway


def _kill(ground: Ground, found: Try, glimpse: Glimpse, details: dict[str, Any]) -> Struck:
    mark = ground.watch.mark()
    assert tasks.send(found.child, signal.SIGKILL), f"{found.name} had ended before it was killed"
    _until_ended(ground, found)
    return Struck(mark, f"SIGKILL of {found.name}", [glimpse], details, [found])


def kill_worker(ground: Ground, rng: random.Random) -> Struck:
    """The worker process goes, with the task or without: nobody tells Airflow, only heartbeats stop."""
    task_id = rng.choice(STAGING_SINKS)
    found, glimpse = _catch(ground, INDEX, task_id, _staged(ground, rng, task_id))
    with_task = rng.random() < 0.5
    mark = ground.watch.mark()
    assert tasks.send(found.worker, signal.SIGKILL)
    if with_task:
        tasks.send(found.child, signal.SIGKILL)
    else:
        ground.thaw(found.child)
    what = f"SIGKILL of the worker of {found.name}{' and of the task' if with_task else '; the task went on alone'}"
    ground.until(lambda: not tasks.is_alive(found.worker), f"the end of the worker of {found.name}", 30)
    _until_tried_again(ground, found)
    return Struck(mark, what, [glimpse], {"worker": found.worker, "task_killed_too": with_task}, [found])


# --- Zombies -----------------------------------------------------------------------------------


def zombie_before_init(ground: Ground, rng: random.Random) -> Struck:
    """PublishKafka freezes before it has fenced anybody."""
    if rng.random() < 0.7:
        found, glimpse = _catch(ground, COMPUTE, "PublishKafka", lambda: _silent)
        return _zombie(ground, rng, found, glimpse, {"frozen": "before it made its producer"})
    found, glimpse = _catch_in_init(ground, rng)
    return _zombie(ground, rng, found, glimpse, {"frozen": "in init_transactions, unanswered"})


def _silent(found: Try) -> bool:
    """Ready when the task's own code runs and has not spoken to Kafka yet."""
    return tasks.is_at_work(found) and not tasks.kafka_threads(found.child)


def _catch_in_init(ground: Ground, rng: random.Random) -> tuple[Try, Glimpse]:
    """Freeze a PublishKafka that waits for Kafka's first answer.

    That is certain because the broker is frozen from before the task speaks to it until the task is.
    """
    broker = ground.pid("kafka")
    done: set[tuple[Any, ...]] = set()
    deadline = time.monotonic() + HUNT_S
    while True:
        assert time.monotonic() < deadline, f"PublishKafka was not found before its first word within {HUNT_S} s"
        for found in ground.running():
            if found.task_id != "PublishKafka" or (*found.key, found.number) in done:
                continue
            done.add((*found.key, found.number))
            if tasks.kafka_threads(found.child):
                continue
            ground.freeze(broker)
            try:
                ground.until(lambda: tasks.is_frozen(broker), "a frozen broker", 10)
                is_silent = not tasks.kafka_threads(found.child)
                glimpse = _caught(ground, found, _speaking_to_kafka(rng, 0.3)()) if is_silent else None
            finally:
                ground.thaw(broker)
            if glimpse:
                return found, glimpse
        ground.pause(0.01)


def zombie_after_init(ground: Ground, rng: random.Random) -> Struck:
    """PublishKafka freezes when some of its chunks are committed, and not all."""
    found, glimpse = _catch(ground, COMPUTE, "PublishKafka", _publishing(ground))
    chunks, done = chunks_committed(ground, found)
    frozen = {"frozen": "between its first chunk and its last", "chunks": chunks, "chunks_committed": done}
    return _zombie(ground, rng, found, glimpse, frozen)


def zombie_of_the_sinks(ground: Ground, rng: random.Random) -> Struck:
    task_id = rng.choice(["ConsumeKafka", "TransformJSON", "PutElasticSearch", "PutGCP", "PutGCP", "CommitOffsets"])
    if task_id == "PutGCP":
        with _writing(ground, ground.gcs_gateway, task_id, rng) as (trap, found):
            glimpse = _freeze(ground, found)
            assert glimpse, f"{found.name} was not at work although it wrote"
        return _zombie(ground, rng, found, glimpse, {"frozen": f"{task_id}, in a write", **_held(trap)})
    ready = _speaking_to_kafka(rng, 0.1) if task_id == "CommitOffsets" else _staged(ground, rng, task_id)
    found, glimpse = _catch(ground, INDEX, task_id, ready)
    return _zombie(ground, rng, found, glimpse, {"frozen": task_id})


def _zombie(ground: Ground, rng: random.Random, found: Try, glimpse: Glimpse, details: dict[str, Any]) -> Struck:
    """A frozen task sleeps until Airflow has given it up and its retry has begun; then it wakes up."""
    mark = ground.watch.mark()
    # Its worker too, as when a machine is suspended: else it would go on sending heartbeats.
    ground.freeze(found.worker)
    try:
        successor = _until_tried_again(ground, found)
        details["wakes"] = when = rng.choice(["as its retry starts", "in its retry's work", "after its retry's end"])
        if when == "in its retry's work":
            ground.until(lambda: _is_in_its_work(successor) or not tasks.is_alive(successor.child), "the retry's work")
            ground.pause(rng.uniform(0, 0.2))
        elif when == "after its retry's end":
            _until_ended(ground, successor)
        details["retry"] = successor.number
        details["retry_when_woken"] = (tasks.events(successor.log) or [""])[-1]
    finally:
        details["awake"] = _wake(ground, found)
    _until_ended(ground, found)
    what = f"SIGSTOP of {found.name} and of its worker, SIGCONT {details['wakes']}"
    return Struck(mark, what, [glimpse], details, [found, successor])


def _is_in_its_work(found: Try) -> bool:
    is_publisher = found.task_id in ("PublishKafka", "CommitOffsets")
    return tasks.is_at_work(found) and (not is_publisher or tasks.kafka_threads(found.child) > 0)


def _wake(ground: Ground, zombie: Try) -> Glimpse | None:
    """Let a zombie go on, and keep Airflow from ending it for a while; how it looks then, or None if it has ended.

    Its worker has to live too, because the task speaks to it; but as soon as the worker's heartbeat is answered, it
    ends the task. So nobody answers: as when the network between the two is cut.
    """
    server = ground.pid("airflow-api-server")
    deadline = time.monotonic() + ZOMBIE_S
    ground.freeze(server)
    try:
        ground.thaw(zombie.child)
        # Asleep: it waits for its worker's answer, which must find the question before it sends its heartbeat.
        while not tasks.is_asleep(zombie.child) and time.monotonic() < deadline:
            ground.pause(0.05)
        ground.thaw(zombie.worker)
        while not tasks.is_done(zombie) and tasks.is_alive(zombie.child) and time.monotonic() < deadline:
            ground.pause(0.05)
        with suppress(psutil.NoSuchProcess):
            return ground.tasks.glimpse(zombie)
        return None
    finally:
        ground.thaw(zombie.worker)
        ground.thaw(server)


def _until_tried_again(ground: Ground, lost: Try) -> Try:
    """Wait for the next try of a task whose worker has fallen silent."""
    found: list[Try] = []

    def tried_again() -> bool:
        found.extend(it for it in ground.running() if it.key == lost.key and it.number > lost.number)
        return bool(found)

    ground.until(tried_again, f"a try after {lost.name}", RETRY_S)
    return found[0]


# --- Services ----------------------------------------------------------------------------------


def kill_scheduler(ground: Ground, rng: random.Random) -> Struck:
    glimpses, hit = _anybody_at_work(ground, rng)
    return _kill_service(ground, "airflow-scheduler", glimpses, hit)


def kill_kafka(ground: Ground, rng: random.Random) -> Struck:
    dag_id, task_id = rng.choice([(COMPUTE, "PublishKafka"), (COMPUTE, "PublishKafka"), (INDEX, "ConsumeKafka")])
    found, glimpse = _catch(ground, dag_id, task_id, _speaking_to_kafka(rng, 0.5))
    ground.thaw(found.child)
    return _kill_service(ground, "kafka", [glimpse], [found])


def kill_elasticsearch(ground: Ground, rng: random.Random) -> Struck:
    with _writing(ground, ground.elasticsearch_gateway, "PutElasticSearch", rng) as (trap, found):
        return _kill_service(ground, "elasticsearch", [ground.tasks.glimpse(found)], [found], _held(trap))


def kill_gcs(ground: Ground, rng: random.Random) -> Struck:
    with _writing(ground, ground.gcs_gateway, "PutGCP", rng) as (trap, found):
        return _kill_service(ground, "gcs", [ground.tasks.glimpse(found)], [found], _held(trap))


def _anybody_at_work(ground: Ground, rng: random.Random) -> tuple[list[Glimpse], list[Try]]:
    """Wait for a random moment at which some task is at work."""
    ground.pause(rng.uniform(0, 3))
    seen: list[tuple[Glimpse, Try]] = []

    def at_work() -> bool:
        for found in ground.running():
            with suppress(psutil.NoSuchProcess):
                seen.append((ground.tasks.glimpse(found), found))
        seen[:] = [(glimpse, found) for glimpse, found in seen if glimpse.is_at_work]
        return bool(seen)

    ground.until(at_work, "a task at work", HUNT_S)
    return [glimpse for glimpse, _ in seen], [found for _, found in seen]


def _kill_service(
    ground: Ground, process: str, glimpses: list[Glimpse], hit: list[Try], details: dict[str, Any] | None = None
) -> Struck:
    pid = ground.pid(process)
    mark = ground.watch.mark()
    assert tasks.send(pid, signal.SIGKILL), f"{process} was not running"
    ground.until(lambda: ground.pid(process) not in (0, pid), f"the restart of {process}", 60)
    lines = supervisor.read_last_lines(ground.paths, "supervisord", 20)
    proof = [line for line in lines if process in line and "SIGKILL" in line]
    assert proof, f"supervisord did not log that {process} was killed"
    found = {**(details or {}), "supervisord": proof[-1], "pid": pid, "next_pid": ground.pid(process)}
    what = f"SIGKILL of {process} while {', '.join(it.name for it in hit)} was at work"
    return Struck(mark, what, glimpses, found, hit)


# --- Services that refuse ----------------------------------------------------------------------


def elasticsearch_429(ground: Ground, rng: random.Random) -> Struck:
    error = {"type": "es_rejected_execution_exception", "reason": "rejected execution (a test)"}
    body = msgspec.json.encode({"error": {"root_cause": [error], **error}, "status": 429}).decode()
    return _refuse(ground, rng, ground.elasticsearch_gateway, "PutElasticSearch", 429, body)


def gcs_503(ground: Ground, rng: random.Random) -> Struck:
    body = msgspec.json.encode({"error": {"code": 503, "message": "We encountered an internal error (a test)."}})
    return _refuse(ground, rng, ground.gcs_gateway, "PutGCP", 503, body.decode())


def _refuse(  # noqa: PLR0917
    ground: Ground, rng: random.Random, gateway: Gateway, task_id: str, status: int, body: str
) -> Struck:
    """Refuse everything, from some write of the task on; mostly shorter than a task's own patience of 60 s."""
    refusal = Refusal(status, body, after=rng.random() < 0.5, skip=rng.randint(0, 3))
    seconds = rng.uniform(5, 25) if rng.random() < 0.9 else rng.uniform(62, 75)
    gateway.refusal = refusal
    try:
        ground.until(refusal.began.is_set, f"a write of {task_id}", HUNT_S)
        mark = ground.watch.mark()
        found = [it for it in ground.running() if it.task_id == task_id]
        glimpses = [ground.tasks.glimpse(it) for it in found]
        ground.pause(seconds)
    finally:
        gateway.refusal = None
    details = {
        "seconds": round(seconds, 1), "requests_refused": refusal.count, "writes_refused": refusal.writes,
        "service_had_done_them": refusal.after,
    }  # fmt: skip
    return Struck(mark, f"{status} to {found[0].name} for {seconds:.0f} s", glimpses, details, found)


def full_disk(dag_id: str, *task_ids: str) -> Callable[[Ground, random.Random], Struck]:
    """The disk fills up under what a task stages, in one to three of its tries; the third is the last one it has."""

    def strike(ground: Ground, rng: random.Random) -> Struck:
        task_id, wanted = rng.choice(task_ids), rng.choice([1, 1, 2, 3])
        hit: list[Try] = []
        mark = ground.watch.mark()
        deadline = time.monotonic() + HUNT_S
        while len(hit) < wanted:
            assert time.monotonic() < deadline, f"{task_id} did not meet {wanted} full disks within {HUNT_S} s"
            for found in ground.running():
                is_next = not hit or (found.key == hit[0].key and found.number > hit[-1].number)
                if (found.dag_id, found.task_id) != (dag_id, task_id) or not is_next:
                    continue
                files = ground.tasks.staged(found)
                # Not before it stages: an interpreter that cannot write leaves broken files of compiled modules.
                if files and "manifest.json" not in files:
                    met = ground.watch.mark()
                    tasks.limit_files(found.child, SMALL_DISK_BYTES)
                    _until_ended(ground, found)
                    if _met_full_disk(ground, found):
                        mark = mark if hit else met
                        hit.append(found)
                        break
            ground.pause(0.002)
        details = {
            "tries": [it.number for it in hit],
            "left_behind": [name for it in hit for name in ground.tasks.staged(it)],
        }
        return Struck(mark, f"full disk under {wanted} tries of {hit[0].name}", [], details, hit)

    return strike


def _until_ended(ground: Ground, found: Try) -> None:
    ground.until(lambda: not tasks.is_alive(found.child), f"the end of {found.name}")


def _met_full_disk(ground: Ground, ended: Try) -> bool:
    """Whether a try failed for it; its log, which another process writes, needs a moment to be complete."""
    deadline = time.monotonic() + 5
    while not (met := any(tasks.FILE_TOO_LARGE in line for line in tasks.lines(ended.log))):
        if time.monotonic() > deadline:
            break
        ground.pause(0.1)
    return met


# --- Run again by hand -------------------------------------------------------------------------


def run_again(ground: Ground, rng: random.Random) -> Struck:
    """Somebody clears a run in the middle of its work, from a random task on, or a run that ended long ago."""
    glimpses, hit = _anybody_at_work(ground, rng)
    found = rng.choice(hit)
    if rng.random() < 0.7:
        run_id, task_ids = found.run_id, [rng.choice(["ConsumeKafka", found.task_id])]
    else:
        run_id, task_ids = rng.choice(ground.airflow.runs(found.dag_id, "success")), None
    mark = ground.watch.mark()
    cleared = ground.airflow.clear(found.dag_id, run_id, task_ids)
    start = task_ids[0] if task_ids else "its start"
    what = f"{found.dag_id} {run_id}: cleared from {start} on, while {found.name} worked"
    return Struck(mark, what, glimpses, {"cleared": cleared, "was_running": run_id == found.run_id}, hit)


# --- None --------------------------------------------------------------------------------------


def nothing(ground: Ground, rng: random.Random) -> Struck:
    """No fault: how long the way takes by itself."""
    ground.pause(rng.uniform(0, 3))
    return Struck(ground.watch.mark(), "no fault", [])


TARGETS = {
    target.name: target
    for target in (
        Target("compute.ConsumeKafka", "compute", kill_at_staging(COMPUTE, "ConsumeKafka")),
        Target("compute.ComputeCostTravel", "compute", kill_at_staging(COMPUTE, "ComputeCostTravel")),
        Target("compute.PublishKafka", "compute", kill_publish_kafka),
        Target("zombie-before-init", "compute", zombie_before_init),
        Target("zombie-after-init", "compute", zombie_after_init),
        Target("index.ConsumeKafka", "index", kill_at_staging(INDEX, "ConsumeKafka")),
        Target("index.TransformJSON", "index", kill_at_staging(INDEX, "TransformJSON")),
        Target("index.PutElasticSearch", "index", kill_at_writing("PutElasticSearch")),
        Target("index.PutGCP", "index", kill_at_writing("PutGCP")),
        Target("index.CommitOffsets", "index", kill_commit_offsets),
        Target("zombie-of-the-sinks", "index", zombie_of_the_sinks),
        Target("worker", "index", kill_worker),
        Target("elasticsearch", "index", kill_elasticsearch),
        Target("gcs", "index", kill_gcs),
        Target("elasticsearch-429", "index", elasticsearch_429),
        Target("gcs-503", "index", gcs_503),
        Target("compute.full-disk", "compute", full_disk(COMPUTE, "ConsumeKafka", "ComputeCostTravel")),
        Target("index.full-disk", "index", full_disk(INDEX, *STAGING_SINKS)),
        Target("run-again", "both", run_again),
        Target("scheduler", "both", kill_scheduler),
        Target("kafka", "both", kill_kafka),
        Target("none", "both", nothing),
    )
}
