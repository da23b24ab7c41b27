"""The code of the pipeline. It does not import Airflow."""
