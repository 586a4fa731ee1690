"""Migrations of tables that keep their names, and whose old and new forms are divided as a test wants it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replicator import Migration, Row

Shapes = Mapping[str, tuple[str, str]]
"""By table: what is divided how, the old one and the new one."""

PLAIN = ""
HASH = """ PARTITION BY HASH (id);
    CREATE TABLE IF NOT EXISTS {t}_0 PARTITION OF {t} FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE IF NOT EXISTS {t}_1 PARTITION OF {t} FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    CREATE TABLE IF NOT EXISTS {t}_2 PARTITION OF {t} FOR VALUES WITH (MODULUS 3, REMAINDER 2)"""
WIDE = """ PARTITION BY RANGE (day);
    CREATE TABLE IF NOT EXISTS {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (100);
    CREATE TABLE IF NOT EXISTS {t}_2 PARTITION OF {t} FOR VALUES FROM (100) TO (200);
    CREATE INDEX IF NOT EXISTS {i}_note ON {t} (note)"""
NARROW = """ PARTITION BY RANGE (day);
    CREATE TABLE IF NOT EXISTS {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (50);
    CREATE TABLE IF NOT EXISTS {t}_2 PARTITION OF {t} FOR VALUES FROM (50) TO (100) PARTITION BY LIST (day);
    CREATE TABLE IF NOT EXISTS {t}_2_rest PARTITION OF {t}_2 DEFAULT;
    CREATE TABLE IF NOT EXISTS {t}_rest PARTITION OF {t} DEFAULT;
    CREATE INDEX IF NOT EXISTS {i}_note ON {t} (note)"""

REST = """ PARTITION BY RANGE (day);
    CREATE TABLE IF NOT EXISTS {t}_rest PARTITION OF {t} DEFAULT"""
SHAPES = {"orders": (PLAIN, HASH), "events": (WIDE, NARROW)}


def table(schema: str, name: str, divided: str) -> str:
    """The statements that make a table; they may run again."""
    return (
        f"CREATE TABLE IF NOT EXISTS {schema}.{name} (id integer NOT NULL, day integer NOT NULL, note text, "
        f"PRIMARY KEY (id, day)){divided.format(t=f'{schema}.{name}', i=name)};"
    )


def create_old(shapes: Shapes) -> str:
    """The statements that make the old tables, with a hundred rows each, one a day."""
    return "".join(
        f"{table('public', name, old)} INSERT INTO {name} SELECT i, i, 'n' FROM generate_series(0, 99) AS i;"
        for name, (old, _) in shapes.items()
    )


def same_rows(folder: Path, shapes: Shapes) -> Migration:
    """The migration; its DDL is written into a folder."""
    (folder / "new").mkdir(parents=True, exist_ok=True)
    tables = "\n".join(table("shop", name, new) for name, (_, new) in shapes.items())
    (folder / "new" / "10_tables.sql").write_text(f"CREATE SCHEMA IF NOT EXISTS shop;\n{tables}")
    migration = Migration("partitioned", old="public", new="shop", sql=folder)

    def row(given: Row) -> dict[str, Any]:
        return {"id": given["id"], "day": given["day"], "note": given["note"]}

    def key(given: Row) -> tuple[Any, ...]:
        return given["id"], given["day"]

    for name in shapes:
        migration.transform(source=name, into=name, key=key, name=name)(row)
        migration.reverse(source=name, into=name, key=key, name=name)(row)
    return migration
