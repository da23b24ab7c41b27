"""Open a Spark session: in this process (local[n]), or on a cluster."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path

import pyspark
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.settings import LOOPBACK, ROOT
from jobs.spark.failure import AGAIN, describe
from jobs.spark.java import make_java_home

_LOG4J = """\
rootLogger.level = error
logger.python.name = org.apache.spark.api.python.PythonGatewayServer
logger.python.level = error
# "Initial job has not accepted any resources"
logger.scheduler.name = org.apache.spark.scheduler.TaskSchedulerImpl
logger.scheduler.level = warn
# A failed batch ends the query, whose exception has the same text.
logger.batch.name = org.apache.spark.sql.execution.streaming.MicroBatchExecution
logger.batch.level = off
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %p %c{1}: %m%n
"""


# How often a task is tried, as on a cluster. By default, local[n] does not try again.
_TASK_TRIES = 4


@contextmanager
def open_session(
    name: str,
    *,
    memory: str,
    master: str = "local[2]",
    cores: int = 0,
    executor_memory: str = "",
    host: str = "",
    password: str = "",
    java_options: str = "",
    remedy: str = "See what Java wrote above.",
) -> Iterator[SparkSession]:
    """A session whose driver has its Java and scratch files in one temporary folder (TMPDIR). All times are in UTC.

    Args:
        memory: the heap of the driver, which is the only Java process with local[n]: 512m, 2g.
        master: local[n], or the URL of a cluster.
        cores: the most cores to use of a standalone cluster; 0: all.
        executor_memory: the heap of each executor of a cluster.
        host: the name under which executors on other machines find the driver. Default: this machine only.
        password: the shared secret of a standalone cluster; empty: it asks for none.
        java_options: further options of the driver's Java.
        remedy: what to check if Spark does not start, fails or ends.

    Raises:
        ConfigurationError: the Kafka connector is not installed.
        ServiceUnavailableError: Spark does not start, the cluster does not take the session, or Java fails or ends.
    """
    _check_connector()
    with tempfile.TemporaryDirectory(prefix="spark-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        log4j = folder / "log4j2.properties"
        log4j.write_text(_LOG4J)
        python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # The workers run with this interpreter: other versions cannot read each other's functions.
        os.environ |= {
            "JAVA_HOME": str(make_java_home(folder)),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "TZ": "UTC",
            # The workers import the functions of this project, from another working directory.
            "PYTHONPATH": python_path,
        }
        time.tzset()
        options = f"-Djava.io.tmpdir={folder} -Dlog4j2.configurationFile={log4j} {java_options}"
        settings = {
            "spark.driver.memory": memory,
            "spark.driver.bindAddress": "0.0.0.0" if host else LOOPBACK,  # noqa: S104 (executors connect to it)
            "spark.driver.host": host or LOOPBACK,
            "spark.driver.defaultJavaOptions": options,
            "spark.executorEnv.TZ": "UTC",
            "spark.executorEnv.PYTHONPATH": python_path,
            "spark.local.dir": str(folder / "scratch"),
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
            "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
            "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
        }
        if cores:
            settings["spark.cores.max"] = str(cores)
        if executor_memory:
            settings["spark.executor.memory"] = executor_memory
        if password and master.startswith("spark://"):
            # Not among the settings, which are arguments of Java: other users of the machine see those.
            (folder / "spark-defaults.conf").write_text(
                f"spark.authenticate true\nspark.authenticate.secret {password}\n"
            )
            os.environ["SPARK_CONF_DIR"] = str(folder)
        url = master
        if match := re.fullmatch(r"local\[(\d+)\]", master):
            url = f"local[{match[1]},{_TASK_TRIES}]"
            # The default of 200 is for clusters.
            settings["spark.sql.shuffle.partitions"] = str(2 * int(match[1]))
        builder = SparkSession.builder.appName(name).master(url)
        for key, value in settings.items():
            builder = builder.config(key, value)
        try:
            with chdir(folder):  # where Java makes a folder `artifacts`
                spark = builder.getOrCreate()
        except (Py4JError, PySparkException, OSError) as error:
            raise ServiceUnavailableError(
                f"Spark did not start with the master {master}: {describe(error)}\n{remedy}"
            ) from error
        try:
            yield spark
        except (Py4JError, ConnectionError) as error:
            raise ServiceUnavailableError(
                f"Spark has failed, or ended by itself: its memory ({memory}) did not suffice, or its process was "
                f"killed. {describe(error)}\n{AGAIN} {remedy}"
            ) from error
        finally:
            with suppress(Py4JError, OSError):  # Java has ended
                spark.stop()


def _check_connector() -> None:
    jars = Path(pyspark.__file__).parent / "jars"
    connector = f"spark-sql-kafka-0-10_2.13-{pyspark.__version__}.jar"
    if not (jars / connector).exists():
        raise ConfigurationError(
            f"Spark's Kafka connector is missing: there is no {connector} in {jars}. Without Docker: "
            "`make -B .venv-spark/.stamp`. In Docker: `docker compose --profile '*' build`."
        )
