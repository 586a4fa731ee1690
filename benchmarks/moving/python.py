"""The reference migration's requests, by its own Python transform."""

from pathlib import Path
from typing import Final

from replicator import Migration
from transforms.requests import request, request_id

migration: Final = Migration("bench", old="public", new="party", sql=Path(__file__).parents[1] / "sql", way_back=False)
migration.transform(source="requests", into="requests", key=lambda old: request_id(old["id"]))(request)
