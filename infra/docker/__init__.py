"""What `docker compose` does not do by itself: generated secrets, a check before the start, a smoke test."""
