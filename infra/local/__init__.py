"""The services without Docker: Kafka, Elasticsearch, a Cloud Storage emulator and Airflow, on this machine's loopback.

`python -m infra.local up` starts them; `infra.local.stack` holds the same as functions.
"""
