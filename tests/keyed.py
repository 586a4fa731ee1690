"""Tables whose keys are computed, remembered and asked for; and a collation that takes case for nothing."""

from pathlib import Path
from typing import Any

import psycopg

from replicator import Migration, Query, Row
from tests.engine import execute
from tests.fix_postgres import Database

NOCASE = (
    "CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "CREATE DOMAIN public.nocase_text AS text COLLATE public.nocase",
)


def make_nocase(database: Database) -> bool:
    """A collation that takes case for nothing, where the server is made with ICU."""
    try:
        execute(database.dsn, NOCASE)
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def keyed(folder: Path, kind: str) -> Migration:
    """A table to its like by a computed key and by a remembered one, and through a query."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS store;"
        + "".join(
            f"CREATE TABLE IF NOT EXISTS store.{name} (id {kind} PRIMARY KEY, note text);"
            for name in ("computed", "remembered", "asked")
        )
    )
    migration = Migration("keys", old="public", new="store", sql=folder)

    def as_it_is(old: Row) -> dict[str, Any]:
        return dict(old)

    query = Query("SELECT id, note FROM public.things", key=["id"], depends_on={"things": ["id"]})
    migration.transform(source="things", into="computed", key=lambda old: old["id"], name="computed")(as_it_is)
    migration.transform(source="things", into="remembered", name="remembered")(as_it_is)
    migration.transform(source=query, into="asked", name="asked")(as_it_is)
    return migration
