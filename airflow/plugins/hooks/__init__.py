"""Custom hooks for Airflow's connections."""
