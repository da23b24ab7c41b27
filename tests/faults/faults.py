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
from infra.local.services import spark_driver
from jobs.vertical import Engine
from tests.faults import tasks
from tests.faults.environment import PARTITIONS, Environment, Mark
from tests.faults.gateway import Gateway, Refusal, Trap
from tests.faults.tasks import Glimpse, Try

COMPUTE, INDEX = "dag_compute_cost", "dag_index_and_export"
COMPUTE_TASK = "ComputeCostTravel"
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
    """What a fault aims at, and which DAG it holds up, so that only one fault at a time does.

    Attributes:
        engines: with which COMPUTE_ENGINE there is such a target.
    """

    name: str
    lane: Lane
    strike: Callable[[Environment, random.Random], Struck]
    engines: tuple[Engine, ...] = ("python", "spark")


# --- Catching a task at work ----------------------------------------------------------------------


def _catch(environment: Environment, dag_id: str, task_id: str, ready: Callable[[], Ready]) -> tuple[Try, Glimpse]:
    """Wait until a try of a task is ready to be hit, freeze it, and see that it is at work.

    Args:
        ready: makes, for each try, what says that its moment has come.
    """
    done: set[tuple[Any, ...]] = set()
    deadline = time.monotonic() + HUNT_S
    while True:
        assert time.monotonic() < deadline, f"{dag_id}.{task_id} was not found at work within {HUNT_S} s"
        for task in environment.running():
            if (task.dag_id, task.task_id) != (dag_id, task_id) or (*task.key, task.number) in done:
                continue
            if glimpse := _caught(environment, task, ready()):
                return task, glimpse
            done.add((*task.key, task.number))
        environment.pause(0.01)


def _caught(environment: Environment, task: Try, ready: Ready) -> Glimpse | None:
    """Freeze a try when it is ready; how it looks then, or None if its work was over before."""
    while tasks.is_alive(task.child):
        if not ready(task):
            environment.pause(0.0005)
            continue
        if glimpse := _freeze(environment, task):
            return glimpse
        environment.thaw(task.child)
        if tasks.is_done(task):
            return None
        environment.pause(0.01)
    return None


def _freeze(environment: Environment, task: Try) -> Glimpse | None:
    """Freeze a task; how it looks then, or None if it was not at work."""
    environment.freeze(task.child)
    deadline = time.monotonic() + 2
    # Its log, which another process writes, needs a moment to catch up.
    while not (tasks.is_frozen(task.child) and tasks.is_at_work(task)):
        if time.monotonic() > deadline or tasks.is_done(task) or not tasks.is_alive(task.child):
            return None
        environment.pause(0.01)
    return environment.tasks.glimpse(task)


def _staged(environment: Environment, rng: random.Random, task_id: str) -> Callable[[], Ready]:
    """Ready when some files are staged, and not all."""
    count = 1 if task_id == ONE_FILE else rng.randint(1, PARTITIONS - 1)

    def is_ready(task: Try) -> bool:
        files = environment.tasks.staged(task)
        return len(files) >= count and "manifest.json" not in files

    return lambda: is_ready


def _speaking_to_kafka(rng: random.Random, most_s: float) -> Callable[[], Ready]:
    """Ready some time after Kafka's client has come to life in the task."""

    def ready() -> Ready:
        due = 0.0

        def is_ready(task: Try) -> bool:
            nonlocal due
            if not due and tasks.kafka_threads(task.child):
                due = time.monotonic() + rng.uniform(0, most_s)
            return bool(due) and time.monotonic() >= due

        return is_ready

    return ready


def _publishing(environment: Environment) -> Callable[[], Ready]:
    """Ready when at least one chunk of the run is committed, and not all: certainly behind init_transactions."""

    def is_ready(task: Try) -> bool:
        if not tasks.kafka_threads(task.child):
            return False
        chunks, done = chunks_committed(environment, task)
        return 0 < done < chunks

    return lambda: is_ready


def chunks_committed(environment: Environment, task: Try) -> tuple[int, int]:
    """How many chunks the run of a PublishKafka or CommitOffsets has, and how many its group has passed."""
    source, topic, group = (
        ("ComputeCostTravel", environment.direct.raw_topic, COMPUTE)
        if task.dag_id == COMPUTE
        else ("TransformJSON", environment.direct.result_topic, INDEX)
    )
    manifest = environment.tasks.manifest(task, source)
    if manifest is None:
        return 0, 0
    offsets = environment.committed(group, topic)
    chunks = manifest["chunks"]
    return len(chunks), sum(offsets[chunk["partition"]] > chunk["last"] for chunk in chunks)


@contextmanager
def _writing(
    environment: Environment, gateway: Gateway, task_id: str, rng: random.Random
) -> Iterator[tuple[Trap, Try]]:
    """Hold one of a task's writes to a service while the fault strikes; before or after the service has done it."""
    trap = gateway.trap = Trap(rng.randint(1, 5), after=rng.random() < 0.5)
    try:
        environment.until(trap.caught.is_set, f"a write of {task_id}", HUNT_S)
        yield trap, next(task for task in environment.running() if task.task_id == task_id)
    finally:
        trap.release()
        gateway.trap = None


def _held(trap: Trap) -> dict[str, Any]:
    return {"request_in_flight": trap.request, "service_had_done_it": trap.after}


# --- SIGKILL of a task ----------------------------------------------------------------------------


def kill_consume_kafka(environment: Environment, rng: random.Random) -> Struck:
    """In the middle of its files. For Spark it stages none: at any moment."""
    is_staging = environment.settings.compute_engine == "python"  # type: ignore[attr-defined]
    ready = _staged(environment, rng, "ConsumeKafka") if is_staging else _speaking_to_kafka(rng, 0.2)
    task, glimpse = _catch(environment, COMPUTE, "ConsumeKafka", ready)
    return _kill(environment, task, glimpse, {"files_staged": len(glimpse.staged)})


def kill_publish_kafka(environment: Environment, rng: random.Random) -> Struck:
    """Mostly in the middle of its chunks; else at any moment."""
    ready = _publishing(environment) if rng.random() < 0.7 else _speaking_to_kafka(rng, 1)
    task, glimpse = _catch(environment, COMPUTE, "PublishKafka", ready)
    return _kill_publisher(environment, task, glimpse)


def kill_commit_offsets(environment: Environment, rng: random.Random) -> Struck:
    task, glimpse = _catch(environment, INDEX, "CommitOffsets", _speaking_to_kafka(rng, 0.2))
    return _kill_publisher(environment, task, glimpse)


def _kill_publisher(environment: Environment, task: Try, glimpse: Glimpse) -> Struck:
    chunks, done = chunks_committed(environment, task)
    return _kill(environment, task, glimpse, {"chunks": chunks, "chunks_committed": done})


def kill_at_staging(dag_id: str, task_id: str) -> Callable[[Environment, random.Random], Struck]:
    def strike(environment: Environment, rng: random.Random) -> Struck:
        task, glimpse = _catch(environment, dag_id, task_id, _staged(environment, rng, task_id))
        return _kill(environment, task, glimpse, {"files_staged": len(glimpse.staged)})

    return strike


def kill_at_writing(task_id: str) -> Callable[[Environment, random.Random], Struck]:
    def strike(environment: Environment, rng: random.Random) -> Struck:
        with _writing(environment, _gateway_of(environment, task_id), task_id, rng) as (trap, task):
            return _kill(environment, task, environment.tasks.glimpse(task), _held(trap))

    return strike


def _gateway_of(environment: Environment, task_id: str) -> Gateway:
    return environment.elasticsearch_gateway if task_id == "PutElasticSearch" else environment.gcs_gateway


def _kill(environment: Environment, task: Try, glimpse: Glimpse, details: dict[str, Any]) -> Struck:
    mark = environment.watch.mark()
    assert tasks.send(task.child, signal.SIGKILL), f"{task.name} had ended before it was killed"
    _until_ended(environment, task)
    return Struck(mark, f"SIGKILL of {task.name}", [glimpse], details, [task])


def kill_worker(environment: Environment, rng: random.Random) -> Struck:
    """The worker process goes, with the task or without: nobody tells Airflow, only heartbeats stop."""
    task_id = rng.choice(STAGING_SINKS)
    task, glimpse = _catch(environment, INDEX, task_id, _staged(environment, rng, task_id))
    with_task = rng.random() < 0.5
    mark = environment.watch.mark()
    assert tasks.send(task.worker, signal.SIGKILL)
    if with_task:
        tasks.send(task.child, signal.SIGKILL)
    else:
        environment.thaw(task.child)
    what = f"SIGKILL of the worker of {task.name}{' and of the task' if with_task else '; the task went on alone'}"
    environment.until(lambda: not tasks.is_alive(task.worker), f"the end of the worker of {task.name}", 30)
    _until_tried_again(environment, task)
    return Struck(mark, what, [glimpse], {"worker": task.worker, "task_killed_too": with_task}, [task])


# --- Zombies --------------------------------------------------------------------------------------


def zombie_before_init(environment: Environment, rng: random.Random) -> Struck:
    """PublishKafka freezes before it has fenced anybody."""
    if rng.random() < 0.7:
        task, glimpse = _catch(environment, COMPUTE, "PublishKafka", lambda: _silent)
        return _zombie(environment, rng, task, glimpse, {"frozen": "before it made its producer"})
    task, glimpse = _catch_in_init(environment, rng)
    return _zombie(environment, rng, task, glimpse, {"frozen": "in init_transactions, unanswered"})


def _silent(task: Try) -> bool:
    """Ready when the task's own code runs and has not spoken to Kafka yet."""
    return tasks.is_at_work(task) and not tasks.kafka_threads(task.child)


def _catch_in_init(environment: Environment, rng: random.Random) -> tuple[Try, Glimpse]:
    """Freeze a PublishKafka that waits for Kafka's first answer.

    That is certain because the broker is frozen from before the task speaks to it until the task is.
    """
    broker = environment.pid("kafka")
    done: set[tuple[Any, ...]] = set()
    deadline = time.monotonic() + HUNT_S
    while True:
        assert time.monotonic() < deadline, f"PublishKafka was not found before its first word within {HUNT_S} s"
        for task in environment.running():
            if task.task_id != "PublishKafka" or (*task.key, task.number) in done:
                continue
            done.add((*task.key, task.number))
            if tasks.kafka_threads(task.child):
                continue
            environment.freeze(broker)
            try:
                environment.until(lambda: tasks.is_frozen(broker), "a frozen broker", 10)
                is_silent = not tasks.kafka_threads(task.child)
                glimpse = _caught(environment, task, _speaking_to_kafka(rng, 0.3)()) if is_silent else None
            finally:
                environment.thaw(broker)
            if glimpse:
                return task, glimpse
        environment.pause(0.01)


def zombie_after_init(environment: Environment, rng: random.Random) -> Struck:
    """PublishKafka freezes when some of its chunks are committed, and not all."""
    task, glimpse = _catch(environment, COMPUTE, "PublishKafka", _publishing(environment))
    chunks, done = chunks_committed(environment, task)
    frozen = {"frozen": "between its first chunk and its last", "chunks": chunks, "chunks_committed": done}
    return _zombie(environment, rng, task, glimpse, frozen)


def zombie_of_the_sinks(environment: Environment, rng: random.Random) -> Struck:
    task_id = rng.choice(["ConsumeKafka", "TransformJSON", "PutElasticSearch", "PutGCP", "PutGCP", "CommitOffsets"])
    if task_id == "PutGCP":
        with _writing(environment, environment.gcs_gateway, task_id, rng) as (trap, task):
            glimpse = _freeze(environment, task)
            assert glimpse, f"{task.name} was not at work although it wrote"
        return _zombie(environment, rng, task, glimpse, {"frozen": f"{task_id}, in a write", **_held(trap)})
    ready = _speaking_to_kafka(rng, 0.1) if task_id == "CommitOffsets" else _staged(environment, rng, task_id)
    task, glimpse = _catch(environment, INDEX, task_id, ready)
    return _zombie(environment, rng, task, glimpse, {"frozen": task_id})


def _zombie(
    environment: Environment, rng: random.Random, task: Try, glimpse: Glimpse, details: dict[str, Any]
) -> Struck:
    """A frozen task sleeps until Airflow has given it up and its retry has begun; then it wakes up."""
    mark = environment.watch.mark()
    # Its worker too, as when a machine is suspended: else it would go on sending heartbeats.
    environment.freeze(task.worker)
    try:
        successor = _until_tried_again(environment, task)
        details["wakes"] = when = rng.choice(["as its retry starts", "in its retry's work", "after its retry's end"])
        if when == "in its retry's work":
            environment.until(
                lambda: _is_in_its_work(successor) or not tasks.is_alive(successor.child), "the retry's work"
            )
            environment.pause(rng.uniform(0, 0.2))
        elif when == "after its retry's end":
            _until_ended(environment, successor)
        details["retry"] = successor.number
        details["retry_when_woken"] = (tasks.events(successor.log) or [""])[-1]
    finally:
        details["awake"] = _wake(environment, task)
    _until_ended(environment, task)
    what = f"SIGSTOP of {task.name} and of its worker, SIGCONT {details['wakes']}"
    return Struck(mark, what, [glimpse], details, [task, successor])


def _is_in_its_work(task: Try) -> bool:
    is_publisher = task.task_id in ("PublishKafka", "CommitOffsets")
    return tasks.is_at_work(task) and (not is_publisher or tasks.kafka_threads(task.child) > 0)


def _wake(environment: Environment, zombie: Try) -> Glimpse | None:
    """Let a zombie go on, and keep Airflow from ending it for a while; how it looks then, or None if it has ended.

    Its worker has to live too, because the task speaks to it; but as soon as the worker's heartbeat is answered, it
    ends the task. So nobody answers: as when the network between the two is cut.
    """
    server = environment.pid("airflow-api-server")
    deadline = time.monotonic() + ZOMBIE_S
    environment.freeze(server)
    try:
        environment.thaw(zombie.child)
        # Asleep: it waits for its worker's answer, which must find the question before it sends its heartbeat.
        while not tasks.is_asleep(zombie.child) and time.monotonic() < deadline:
            environment.pause(0.05)
        environment.thaw(zombie.worker)
        while not tasks.is_done(zombie) and tasks.is_alive(zombie.child) and time.monotonic() < deadline:
            environment.pause(0.05)
        with suppress(psutil.NoSuchProcess):
            return environment.tasks.glimpse(zombie)
        return None
    finally:
        environment.thaw(zombie.worker)
        environment.thaw(server)


def _until_tried_again(environment: Environment, lost: Try) -> Try:
    """Wait for the next try of a task whose worker has fallen silent."""
    later: list[Try] = []

    def tried_again() -> bool:
        later.extend(task for task in environment.running() if task.key == lost.key and task.number > lost.number)
        return bool(later)

    environment.until(tried_again, f"a try after {lost.name}", RETRY_S)
    return later[0]


# --- Services -------------------------------------------------------------------------------------


def kill_scheduler(environment: Environment, rng: random.Random) -> Struck:
    glimpses, hit = _anybody_at_work(environment, rng)
    return _kill_service(environment, "airflow-scheduler", glimpses, hit)


def kill_kafka(environment: Environment, rng: random.Random) -> Struck:
    dag_id, task_id = rng.choice([(COMPUTE, "PublishKafka"), (COMPUTE, "PublishKafka"), (INDEX, "ConsumeKafka")])
    task, glimpse = _catch(environment, dag_id, task_id, _speaking_to_kafka(rng, 0.5))
    environment.thaw(task.child)
    return _kill_service(environment, "kafka", [glimpse], [task])


def kill_elasticsearch(environment: Environment, rng: random.Random) -> Struck:
    with _writing(environment, environment.elasticsearch_gateway, "PutElasticSearch", rng) as (trap, task):
        return _kill_service(environment, "elasticsearch", [environment.tasks.glimpse(task)], [task], _held(trap))


def kill_gcs(environment: Environment, rng: random.Random) -> Struck:
    with _writing(environment, environment.gcs_gateway, "PutGCP", rng) as (trap, task):
        return _kill_service(environment, "gcs", [environment.tasks.glimpse(task)], [task], _held(trap))


def _catch_in_spark(environment: Environment, rng: random.Random) -> tuple[Try, Glimpse]:
    """Wait until Spark has staged some files for a task, and not all. The task only waits, so it goes on."""
    task, glimpse = _catch(environment, COMPUTE, COMPUTE_TASK, _staged(environment, rng, COMPUTE_TASK))
    environment.thaw(task.child)
    return task, glimpse


def kill_spark_driver(environment: Environment, rng: random.Random) -> Struck:
    task, glimpse = _catch_in_spark(environment, rng)
    return _kill_service(environment, spark_driver.NAME, [glimpse], [task])


def kill_java_of_spark(environment: Environment, rng: random.Random) -> Struck:
    """Java ends; the driver must see it, end and be started again."""
    task, glimpse = _catch_in_spark(environment, rng)
    pid = environment.pid(spark_driver.NAME)
    (java,) = [child for child in psutil.Process(pid).children(recursive=True) if child.name() == "java"]
    mark = environment.watch.mark()
    java.kill()
    environment.until(lambda: environment.pid(spark_driver.NAME) not in (0, pid), "the restart of spark-driver", 120)
    details = {"java": java.pid, "pid": pid, "next_pid": environment.pid(spark_driver.NAME)}
    return Struck(mark, f"SIGKILL of Spark's Java while {task.name} was at work", [glimpse], details, [task])


def _anybody_at_work(environment: Environment, rng: random.Random) -> tuple[list[Glimpse], list[Try]]:
    """Wait for a random moment at which some task is at work."""
    environment.pause(rng.uniform(0, 3))
    seen: list[tuple[Glimpse, Try]] = []

    def at_work() -> bool:
        for task in environment.running():
            with suppress(psutil.NoSuchProcess):
                seen.append((environment.tasks.glimpse(task), task))
        seen[:] = [(glimpse, task) for glimpse, task in seen if glimpse.is_at_work]
        return bool(seen)

    environment.until(at_work, "a task at work", HUNT_S)
    return [glimpse for glimpse, _ in seen], [task for _, task in seen]


def _kill_service(
    environment: Environment,
    process: str,
    glimpses: list[Glimpse],
    hit: list[Try],
    details: dict[str, Any] | None = None,
) -> Struck:
    pid = environment.pid(process)
    mark = environment.watch.mark()
    assert tasks.send(pid, signal.SIGKILL), f"{process} was not running"
    environment.until(lambda: environment.pid(process) not in (0, pid), f"the restart of {process}", 60)
    lines = supervisor.read_last_lines(environment.paths, "supervisord", 20)
    proof = [line for line in lines if process in line and "SIGKILL" in line]
    assert proof, f"supervisord did not log that {process} was killed"
    details_now = {**(details or {}), "supervisord": proof[-1], "pid": pid, "next_pid": environment.pid(process)}
    what = f"SIGKILL of {process} while {', '.join(task.name for task in hit)} was at work"
    return Struck(mark, what, glimpses, details_now, hit)


# --- Services that refuse -------------------------------------------------------------------------


def elasticsearch_429(environment: Environment, rng: random.Random) -> Struck:
    error = {"type": "es_rejected_execution_exception", "reason": "rejected execution (a test)"}
    body = msgspec.json.encode({"error": {"root_cause": [error], **error}, "status": 429}).decode()
    return _refuse(environment, rng, environment.elasticsearch_gateway, "PutElasticSearch", 429, body)


def gcs_503(environment: Environment, rng: random.Random) -> Struck:
    body = msgspec.json.encode({"error": {"code": 503, "message": "We encountered an internal error (a test)."}})
    return _refuse(environment, rng, environment.gcs_gateway, "PutGCP", 503, body.decode())


def _refuse(
    environment: Environment, rng: random.Random, gateway: Gateway, task_id: str, status: int, body: str
) -> Struck:
    """Refuse everything, from some write of the task on; mostly shorter than a task's own patience of 60 s."""
    refusal = Refusal(status, body, after=rng.random() < 0.5, skip=rng.randint(0, 3))
    seconds = rng.uniform(5, 25) if rng.random() < 0.9 else rng.uniform(62, 75)
    gateway.refusal = refusal
    try:
        environment.until(refusal.began.is_set, f"a write of {task_id}", HUNT_S)
        mark = environment.watch.mark()
        tries = [task for task in environment.running() if task.task_id == task_id]
        glimpses = [environment.tasks.glimpse(task) for task in tries]
        environment.pause(seconds)
    finally:
        gateway.refusal = None
    details = {
        "seconds": round(seconds, 1), "requests_refused": refusal.count, "writes_refused": refusal.writes,
        "service_had_done_them": refusal.after,
    }  # fmt: skip
    return Struck(mark, f"{status} to {tries[0].name} for {seconds:.0f} s", glimpses, details, tries)


def full_disk(dag_id: str, *task_ids: str) -> Callable[[Environment, random.Random], Struck]:
    """The disk fills up under what a task stages, in one to three of its tries; the third is the last one it has."""

    def strike(environment: Environment, rng: random.Random) -> Struck:
        task_id, wanted = rng.choice(task_ids), rng.choice([1, 1, 2, 3])
        hit: list[Try] = []
        mark = environment.watch.mark()
        deadline = time.monotonic() + HUNT_S
        while len(hit) < wanted:
            assert time.monotonic() < deadline, f"{task_id} did not meet {wanted} full disks within {HUNT_S} s"
            for task in environment.running():
                is_next = not hit or (task.key == hit[0].key and task.number > hit[-1].number)
                if (task.dag_id, task.task_id) != (dag_id, task_id) or not is_next:
                    continue
                files = environment.tasks.staged(task)
                # Not before it stages: an interpreter that cannot write leaves broken files of compiled modules.
                if files and "manifest.json" not in files:
                    met = environment.watch.mark()
                    tasks.limit_files(task.child, SMALL_DISK_BYTES)
                    _until_ended(environment, task)
                    if _met_full_disk(environment, task):
                        mark = mark if hit else met
                        hit.append(task)
                        break
            environment.pause(0.002)
        details = {
            "tries": [task.number for task in hit],
            "left_behind": [name for task in hit for name in environment.tasks.staged(task)],
        }
        return Struck(mark, f"full disk under {wanted} tries of {hit[0].name}", [], details, hit)

    return strike


def full_disk_of_spark(environment: Environment, rng: random.Random) -> Struck:
    """The disk fills up under what Spark's workers stage, in one or two tries of ComputeCostTravel."""
    wanted = rng.choice([1, 2])
    hit: list[Try] = []
    mark = environment.watch.mark()
    deadline = time.monotonic() + HUNT_S
    driver = psutil.Process(environment.pid(spark_driver.NAME))
    limited = _limit_workers(driver, SMALL_DISK_BYTES)
    assert limited, "Spark has no Python workers"
    try:
        while len(hit) < wanted:
            assert time.monotonic() < deadline, f"{COMPUTE_TASK} did not meet {wanted} full disks within {HUNT_S} s"
            for task in environment.running():
                is_next = not hit or (task.key == hit[0].key and task.number > hit[-1].number)
                if (task.dag_id, task.task_id) == (COMPUTE, COMPUTE_TASK) and is_next:
                    _until_ended(environment, task)
                    if _met_full_disk(environment, task):
                        hit.append(task)
            environment.pause(0.01)
    finally:
        _limit_workers(driver, -1)
    details = {"tries": [task.number for task in hit], "processes": limited}
    return Struck(mark, f"full disk under {wanted} tries of {hit[0].name} in Spark", [], details, hit)


def _limit_workers(driver: psutil.Process, most_bytes: int) -> int:
    """Limit the files of Spark's Python workers; returns how many. A new one is a fork of the first, with its limit."""
    workers = [child for child in driver.children(recursive=True) if child.name() != "java"]
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            tasks.limit_files(worker.pid, most_bytes)
    return len(workers)


def _until_ended(environment: Environment, task: Try) -> None:
    environment.until(lambda: not tasks.is_alive(task.child), f"the end of {task.name}")


def _met_full_disk(environment: Environment, ended: Try) -> bool:
    """Whether a try failed for it; its log, which another process writes, needs a moment to be complete."""
    deadline = time.monotonic() + 5
    while not (met := any(tasks.FILE_TOO_LARGE in line for line in tasks.lines(ended.log))):
        if time.monotonic() > deadline:
            break
        environment.pause(0.1)
    return met


# --- Run again by hand ----------------------------------------------------------------------------


def run_again(environment: Environment, rng: random.Random) -> Struck:
    """Somebody clears a run in the middle of its work, from a random task on, or a run that ended long ago."""
    glimpses, hit = _anybody_at_work(environment, rng)
    task = rng.choice(hit)
    if rng.random() < 0.7:
        run_id, task_ids = task.run_id, [rng.choice(["ConsumeKafka", task.task_id])]
    else:
        run_id, task_ids = rng.choice(environment.airflow.runs(task.dag_id, "success")), None
    mark = environment.watch.mark()
    cleared = environment.airflow.clear(task.dag_id, run_id, task_ids)
    start = task_ids[0] if task_ids else "its start"
    what = f"{task.dag_id} {run_id}: cleared from {start} on, while {task.name} worked"
    return Struck(mark, what, glimpses, {"cleared": cleared, "was_running": run_id == task.run_id}, hit)


# --- None -----------------------------------------------------------------------------------------


def nothing(environment: Environment, rng: random.Random) -> Struck:
    """No fault: how long the way takes by itself."""
    environment.pause(rng.uniform(0, 3))
    return Struck(environment.watch.mark(), "no fault", [])


TARGETS = {
    target.name: target
    for target in (
        Target("compute.ConsumeKafka", "compute", kill_consume_kafka),
        Target("compute.ComputeCostTravel", "compute", kill_at_staging(COMPUTE, COMPUTE_TASK)),
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
        Target("compute.full-disk", "compute", full_disk(COMPUTE, "ConsumeKafka", "ComputeCostTravel"), ("python",)),
        Target("spark-driver", "compute", kill_spark_driver, ("spark",)),
        Target("spark-java", "compute", kill_java_of_spark, ("spark",)),
        Target("spark-full-disk", "compute", full_disk_of_spark, ("spark",)),
        Target("index.full-disk", "index", full_disk(INDEX, *STAGING_SINKS)),
        Target("run-again", "both", run_again),
        Target("scheduler", "both", kill_scheduler),
        Target("kafka", "both", kill_kafka),
        Target("none", "both", nothing),
    )
}
