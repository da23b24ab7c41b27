"""What Airflow reads at the start of each of its processes (the name is Airflow's).

The scheduler forks every task from itself, so a task need not load what its scheduler has loaded: here, the libraries
that the tasks stand on. Our own code is not among them: each task loads it as it is on the disk then.
"""

from __future__ import annotations

import importlib
import os
import sys

__all__: list[str] = []

# Arrow's default, mimalloc, gives each array's memory back to the kernel at once and asks for it again: a quarter of
# the processor time of ComputeCostTravel. Where Arrow has no jemalloc it says so and goes on.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

# pyarrow loads pandas where it is installed, at the first array that it makes of a list.
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
