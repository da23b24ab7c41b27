"""Custom operators. Each calls a function of jobs/."""
