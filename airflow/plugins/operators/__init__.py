"""Custom operators: Airflow's face of jobs/."""
