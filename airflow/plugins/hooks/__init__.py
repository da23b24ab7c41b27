"""Custom hooks: connections by their conn_id."""
