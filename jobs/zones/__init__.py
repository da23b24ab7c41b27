"""The BigQuery ML playbook of infra/bigquery: one interface, on BigQuery or on a local engine."""
