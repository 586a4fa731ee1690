"""One direction of a migration: stream, apply, backfill, verify and what watches over them."""
