"""The services without Docker, on this machine's loopback: `python -m infra.local --help`.

`runner` starts, watches and stops them; `services` has a module for each, and the list; `java` has what Java needs.
"""
