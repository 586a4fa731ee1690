"""Drafts of new tables that are like old ones, made by the server itself in a transaction that is rolled back.

Twice: first as the old tables are, where the server drops and renames columns, and so puts the new names into every
expression, condition and key; then with the new types, where each thing is tried. What Postgres refuses there is told.
No table of the application's is locked but as by a reader: for a parent of foreign keys that is not copied stands an
empty table with its columns.
"""

from collections.abc import Iterable, Sequence

from replicator.postgres.ddl.quoting import Quoter, read_quoter
from replicator.postgres.drafts.bench import Bench
from replicator.postgres.drafts.first import as_they_are
from replicator.postgres.drafts.model import Draft, Original, Remark
from replicator.postgres.drafts.second import with_new_types
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.rehearsal import rehearsal, try_statement

__all__ = ["Draft", "Original", "Remark", "draft"]


async def draft(
    connection: Connection, old: str, new: str, originals: Sequence[Original], authored: Iterable[str] = ()
) -> tuple[list[Draft], Quoter]:
    """The new tables, one for each original, and how names are quoted.

    :param authored: statements of the author's own, which make types for instance: run before, and undone.
    :raises MigrationError: Postgres refuses the columns of a new table.
    """
    quoter = await read_quoter(connection)
    async with rehearsal(connection):
        for statement in authored:
            await try_statement(connection, statement)  # one that fails is reported by `replicator schema`
        bench = Bench(connection, old, new, originals, quoter)
        await as_they_are(bench)
        await with_new_types(bench)
    return bench.drafts, quoter
