"""Reads, derives, stages, writes and compares rows."""
