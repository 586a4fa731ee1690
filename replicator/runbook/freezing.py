"""What still uses the old tables when a migration ends: it stands still from then on, and keeps them from going."""

from typing import Final

from replicator.core.tables import Name
from replicator.migration import Migration
from replicator.postgres.catalog.dependents import Dependent, read_dependents
from replicator.postgres.control.control import installed
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection, connection
from replicator.settings import Settings

GO_ALONG: Final = ("publication", "publication of a schema", "publication of all tables")
"""What is in nobody's way when a table is dropped."""
SILENT: Final = ("trigger", "parent table")
"""What would go with the table, or lose its rows, though Postgres lets that be."""


def old_tables(migration: Migration) -> set[str]:
    """The tables of the old schema that the migration accounts for; others are nobody's to drop."""
    names = set(migration.retired) | {each.into for each in migration.of("reverse")}
    for each in migration.of("forward"):
        names |= {each.source} if isinstance(each.source, str) else set(each.source.depends_on)
    return names - migration.left


async def using_old_tables(settings: Settings, migration: Migration) -> list[Dependent]:
    """What uses them, under whatever name they have now; nothing where no migration was started."""
    async with connection(settings.source, "dependents") as source:
        return await users_of(source, migration) if await installed(source) else []


async def users_of(source: Connection, migration: Migration) -> list[Dependent]:
    """Likewise, through a connection to their database."""
    places = await read_places(source)
    names = [places.now(Name(schema=migration.old, table=each)) for each in sorted(old_tables(migration))]
    oids = await oids_by_name(source, names)
    return await read_dependents(source, {oid: name for name, oid in oids.items()})


def told(found: list[Dependent]) -> list[str]:
    """A sentence for what is certain, and one for what hangs on a name, or goes along without a word."""
    sure = [f"{each} ({each.table})" for each in found if not each.hint and each.kind not in GO_ALONG]
    hints = [f"{each} ({each.table})" for each in found if each.hint]
    published = [f"{each.identity} ({each.table})" for each in found if each.kind == "publication"]
    said = []
    if sure:
        said.append(f"These use old tables, which stand still from `replicator finalize` on: {', '.join(sure)}.")
    if hints:
        said.append(f"These have an old table's name in their text, which is all that is known: {', '.join(hints)}.")
    if published:
        said.append(f"Publications lose old tables when these are dropped: {', '.join(published)}.")
    return said
