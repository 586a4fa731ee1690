"""The demo: a private Postgres, an application that never stops writing, and a whole migration of it."""
