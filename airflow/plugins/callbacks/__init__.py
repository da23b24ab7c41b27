"""What Airflow calls when something is late."""
