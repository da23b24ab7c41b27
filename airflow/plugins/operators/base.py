"""The base of the operators: settings, staging folders, and the mapping of errors to Airflow's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.observability.stats import Stats

from hooks.kafka_hook import KafkaHook
from jobs.errors import ConfigurationError, StagedFilesGoneError
from jobs.files import Folder
from jobs.kafka.offsets import read_group_offsets
from jobs.kafka.staged import Manifest, read_manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.settings import Settings, load
from jobs.verticals import merge_settings

# The default arguments of every DAG: retry soon, and end tasks that hang.
DEFAULT_ARGS = {
    "owner": "datastream",
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(seconds=60),
    "execution_timeout": timedelta(hours=1),
}


class DatastreamOperator(BaseOperator):
    """Runs a function of jobs/. A wrong setting fails the task without a retry; all other errors are retried."""

    # Template fields that may be empty.
    optional_fields: Sequence[str] = ()

    def __init__(self, *, kafka_conn_id: str = "kafka_local", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kafka_conn_id = kafka_conn_id

    @abstractmethod
    def work(self, context: Context, settings: Any) -> str | None:
        """Do the work of the task; returns the URL of the manifest for the next task."""

    def execute(self, context: Context) -> str | None:
        try:
            for name in set(self.template_fields) - set(self.optional_fields):
                value = getattr(self, name)
                if value is None or "" in ([value] if isinstance(value, str) else value):
                    raise ConfigurationError(f"{self.task_id}: {name} is empty. Set its Variable (see .env.example).")
            # Load the settings of all verticals, so that the first task checks them before any data is touched.
            return self.work(context, load(merge_settings()))
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        except StagedFilesGoneError as error:
            raise AirflowSkipException(str(error)) from error

    @cached_property
    def kafka(self) -> dict[str, Any]:
        """The configuration in the Kafka connection."""
        return KafkaHook(self.kafka_conn_id).read_config()

    def locate_folder(self, context: Context, settings: Settings) -> Folder:
        """The staging folder of this try."""
        task = context["ti"]
        return self.locate_run_folder(context, settings).child(task.task_id, str(task.try_number))

    def locate_run_folder(self, context: Context, settings: Settings) -> Folder:
        """The staging folder of this run."""
        return self.locate_dag_folder(context, settings).child(context["ti"].run_id)

    def locate_dag_folder(self, context: Context, settings: Settings) -> Folder:
        """The staging folder of this DAG."""
        return Folder(settings.staging).child(context["ti"].dag_id)

    def make_topic_ids(self, settings: Settings) -> TopicIds:
        """The ids of the topics that groups have read."""
        return TopicIds(Folder(settings.staging))

    def report_freshness(self, metric: str, manifest: Manifest) -> None:
        """Report the age of the oldest message of a run whose work is done."""
        if (age_s := manifest.age_s) is not None:
            Stats.timing(metric, timedelta(seconds=age_s), tags={"dag_id": self.dag_id})

    def read_unfinished(self, url: str) -> Manifest:
        """Read the manifest at `url`. Skips the task if its claim is already committed, as in a cleared old run."""
        manifest = read_manifest(url)
        if manifest.is_passed_by(read_group_offsets(self.kafka, manifest.topic, manifest.group)):
            raise AirflowSkipException(f"Group {manifest.group} has passed this run's claim: nothing is left to do.")
        return manifest
