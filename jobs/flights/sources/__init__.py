"""The sources of the flights: each is a function that yields observations and rejects."""
