"""The migration's SQL files: taken apart, rewritten, run."""
