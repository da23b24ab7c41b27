"""Kills the executor or the driver of a stream at one point of a task, once. Python imports this module at its start.

KILL=<who> <point>; KILL_FOLDER: for the process id of the driver, and the log of the kill.
"""

import os
import signal
import sys
from pathlib import Path

WHO, _, POINT = os.environ.get("KILL", "").partition(" ")


def list_processes():
    """The parent and the name of each process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        yield int(stat.parent.name), int(tail.split()[1]), head.partition("(")[2]


def strike():
    folder = Path(os.environ["KILL_FOLDER"])
    try:
        log = os.open(folder / "killed.log", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    driver = int((folder / "driver.pid").read_text())
    parents = {process: parent for process, parent, _ in list_processes()}
    if WHO == "executor":
        daemon = os.getppid()
        victims = [parents[daemon], daemon, os.getpid()]
    else:
        victims = [process for process, parent, name in list_processes() if parent == driver and name == "java"]
        victims.append(driver)
    os.write(log, f"{WHO} {POINT} {victims} from {os.getpid()}\n".encode())
    os.fsync(log)
    for process in victims:
        os.kill(process, signal.SIGKILL)


def hook_task():
    from jobs.kafka import transaction

    def after(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            result = real(*arguments, **options)
            if name == "send_all":
                arguments[0]._producer.flush(30)  # so that messages of the open transaction are at the broker
            strike()
            return result

        setattr(owner, name, call)

    if POINT == "init":
        after(transaction, "_open_producer")
    elif POINT == "offset-read":
        after(transaction.GroupWriter, "read_committed")
    elif POINT == "mid-send":
        after(transaction.GroupWriter, "send_all")
    else:
        real = transaction._call_with_timeout

        def call(what, *arguments):
            is_commit = what.__name__ == "commit_transaction"
            if is_commit and POINT == "before-commit":
                strike()
            real(what, *arguments)
            if is_commit and POINT == "after-commit":
                strike()

        transaction._call_with_timeout = call


def hook_driver():
    (Path(os.environ["KILL_FOLDER"]) / "driver.pid").write_text(str(os.getpid()))
    if POINT == "checkpoint":
        from jobs.rides.spark.stream import Stream

        real = Stream.process

        def process(*arguments):
            real(*arguments)
            strike()

        Stream.process = process


if WHO and "pyspark.daemon" in sys.orig_argv:
    hook_task()
elif WHO and "jobs.spark_enrich" in sys.orig_argv:
    hook_driver()
