"""The sinks. Each writes the same documents or objects again when a task is retried."""
