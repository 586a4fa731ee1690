"""Restructure the schema of a live Postgres database without stopping it."""

from replicator.migration import ALL, Lookup, Migration, Query, Row
from replicator.values import as_array, as_datetime, as_json, as_uuid

__all__ = ["ALL", "Lookup", "Migration", "Query", "Row", "as_array", "as_datetime", "as_json", "as_uuid"]
