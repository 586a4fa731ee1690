"""Commands around the switchover: schema, baseline, dry run, smoke test, backup, finalize, abort, cleanup."""
