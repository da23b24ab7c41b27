"""The sources of the flights. Each is a function that yields what it collected."""
