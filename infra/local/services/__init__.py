"""A module for each service without Docker, and the list of them in `catalog`."""
