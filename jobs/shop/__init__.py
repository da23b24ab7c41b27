"""Transactions of an online shop: from Kafka or a generator into PostgreSQL, and through dbt into tested marts."""
