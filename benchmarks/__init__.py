"""Replicator and its peers at the same work: `make bench`. No test asserts a time; this is where time is measured."""
