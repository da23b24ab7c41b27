"""Airflow imports this module at the start of each process; Airflow defines its name.

The scheduler forks every task, so a task does not load the libraries that the scheduler has loaded here. The project's
own code is not preloaded: each task imports the current version from disk.
"""

from __future__ import annotations

import importlib
import os
import sys

__all__: list[str] = []

# Arrow's default, mimalloc, returns the memory of each array to the kernel and requests it again: 25 % of the CPU time
# of ComputeCostTravel. Without jemalloc, Arrow logs a warning and uses the default.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

# pandas: pyarrow imports it, if it is installed, when it makes the first array from a list.
_LIBRARIES = (
    "airflow.providers.apache.kafka.hooks.base",
    "airflow.providers.elasticsearch.hooks.elasticsearch",
    "airflow.providers.google.cloud.hooks.gcs",
    "confluent_kafka",
    "elasticsearch",
    "google.cloud.storage",
    "msgspec",
    "pandas",
    "pyarrow.compute",
    "pyarrow.fs",
    "pyarrow.json",
    "pyarrow.parquet",
    "pydantic_settings",
    "pyproj",
)

if "scheduler" in sys.argv:
    for library in _LIBRARIES:
        importlib.import_module(library)
