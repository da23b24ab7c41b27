"""What `docker compose` does not do by itself: generated secrets, checks before the start, a smoke test."""
