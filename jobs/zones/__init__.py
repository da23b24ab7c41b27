"""Run the BigQuery ML playbook in infra/bigquery, on BigQuery or on a local engine, through one interface."""
