"""The fault campaign: a continuous flow of known rides, faults at random moments, and every id compared afterwards.

`python -m tests.faults --help`; what it found stands in docs/reliability.md. Linux only: it looks into /proc.
"""
