"""Measurements of one thing each, run by hand."""
