"""Options of Airflow's database connection. Airflow imports this before it forks tasks: import nothing here."""

# SQLite has one writer: wait for it instead of failing with "database is locked" after 5 s.
ARGUMENTS = {"timeout": 60}
