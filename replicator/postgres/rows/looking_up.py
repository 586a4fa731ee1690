"""The source keys that a changed row concerns, by the author's SQL: a Lookup."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

from psycopg import pq, sql

from replicator.core.tables import Column, Key, printed_key
from replicator.mapping.plan import Dependency, Source
from replicator.postgres.rows.keys import form_of
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.streaming import Texts
from replicator.postgres.rows.texts import brought_to
from replicator.postgres.session.connect import Connection, beside_parameters, comma, identifier, translated

LIBPQ_17 = 170_000


async def look_up(
    connection: Connection, source: Source, dependency: Dependency, image: Mapping[str, Any], at_once: int
) -> AsyncGenerator[set[Key]]:
    """The source keys that a changed row concerns, by the author's SQL, so many at a time; a NULL leads to none.

    Inside a transaction of the caller's, who may read on the same connection in between. To be closed when left early.

    :raises RowError: it fails for this row, whichever row it reads for it is to blame; the transaction has failed.
    """
    query = lookup_query(dependency.lookup or "", [source.by_name[name] for name in source.key]).encode()
    with refusing():
        async with connection.cursor() as cursor:  # one round trip, for the many that return few keys
            found: list[Texts] = []
            many = False
            async for texts in cursor.stream(query, dict(image), size=_rows_at_once()):
                many = many or len(found) >= at_once
                if not many:
                    found.append(texts)
        if not many:
            yield _printed_keys(source, found)
            return
        async with connection.cursor("replicator_keys") as held:
            await held.execute(query, dict(image))
            while found := await held.fetchmany(at_once):
                yield _printed_keys(source, found)


async def without_values(connection: Connection, source: Source, dependency: Dependency, names: Iterable[str]) -> None:
    """Look nothing up: raises, as what it is, an error that no changed row can explain.

    :param names: of the columns that the lookup is given.
    """
    query = lookup_query(dependency.lookup or "", [source.by_name[name] for name in source.key])
    with translated():
        await connection.execute(f"{query} LIMIT 0".encode(), dict.fromkeys(names))


def _printed_keys(source: Source, rows: Iterable[Texts]) -> set[Key]:
    keys = (printed_key(texts, source.key, source.by_name) for texts in rows)
    return {key for key in keys if key is not None}


def _rows_at_once() -> int:
    """How many rows libpq hands over together while it streams; before version 17 it can do so only one by one."""
    return 1_000 if pq.version() >= LIBPQ_17 else 1


def lookup_query(lookup: str, columns: Sequence[Column]) -> str:
    """An author's SQL, with its values brought to the types of the key's columns, and to their form."""
    names = [identifier(f"k{place}") for place in range(len(columns))]
    values = [
        brought_to(sql.SQL("l.{}").format(name), column.form.cast) for name, column in zip(names, columns, strict=True)
    ]
    forms = [
        form_of(column, value) if column.form.prints_apart else value
        for column, value in zip(columns, values, strict=True)
    ]  # fmt: skip
    before, after = (beside_parameters(each).as_string() for each in (comma(forms), comma(names)))
    return f"SELECT {before} FROM (\n{lookup.strip().rstrip(';')}\n) AS l({after})"
