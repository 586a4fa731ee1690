"""What columns a query of the migration's author returns."""

from psycopg import sql

from replicator.core.tables import Column
from replicator.errors import MigrationError, ReplicatorError
from replicator.postgres.catalog.forms import UNDETERMINED, read_forms
from replicator.postgres.catalog.kinds import kinds_of, type_names
from replicator.postgres.ddl.authored import refused
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.postgres.session.server import fetch

COLLATIONS = """
    SELECT c.oid::int8 AS oid, format('%%I.%%I', n.nspname, c.collname) AS name
    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
    WHERE c.oid = ANY (%(oids)s::oid[]) AND c.oid <> 'pg_catalog."default"'::regcollation
"""


async def describe_query(connection: Connection, name: str, query: str) -> tuple[Column, ...]:
    """The result columns of a SELECT. Raises MigrationError when Postgres refuses it."""
    try:
        with translated():
            cursor = await connection.execute(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(_trusted(query)))
    except ReplicatorError as error:
        if error.transient:
            raise
        problem, remedy = refused(error)
        raise MigrationError(f"The query {name} does not run: {problem}", remedy) from error
    described, result = cursor.description or [], cursor.pgresult
    types = await kinds_of(connection, [each.type_code for each in described])
    names = await type_names(connection, [each.type_code for each in described])
    collated = await _collations(connection, query, [each.name for each in described])
    typed = [
        (each.type_code, result.fmod(place) if result is not None else -1, collated.get(each.name, 0))
        for place, each in enumerate(described)
    ]
    with translated():
        forms = await read_forms(connection, typed)
    return tuple(
        Column(
            name=each.name,
            type=names[each.type_code],
            type_oid=each.type_code,
            kind=types[each.type_code][0],
            operators=types[each.type_code][1],
            equality=forms[of],
        )
        for each, of in zip(described, typed, strict=True)
    )


async def collations(connection: Connection, query: str, names: list[str]) -> dict[str, str]:
    """The collation of each result column that has another than its type's default, quoted for SQL."""
    with translated():
        found = await _collations(connection, query, names)
    named = await fetch(connection, COLLATIONS, oids=list(set(found.values())))
    by_oid = {each["oid"]: each["name"] for each in named}
    return {name: by_oid[oid] for name, oid in found.items() if oid in by_oid}


async def _collations(connection: Connection, query: str, names: list[str]) -> dict[str, int]:
    """The collation that each result column of text has."""
    shown = comma([
        sql.SQL("CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_type WHERE oid = pg_typeof({0}) AND typcollation <> 0) "
                "THEN coalesce(pg_catalog.pg_collation_for({0})::regcollation::oid::int8, {1}) END").format(
            identifier("q", name), UNDETERMINED
        )
        for name in names
    ])  # fmt: skip
    with translated():
        cursor = await connection.execute(
            sql.SQL(
                "SELECT {} FROM (VALUES (1)) AS one LEFT JOIN (SELECT * FROM ({}) AS q LIMIT 0) AS q ON true"
            ).format(shown, _trusted(query))
        )
        row = await cursor.fetchone()
    return {name: int(oid) for name, oid in zip(names, row or (), strict=False) if oid is not None}


def _trusted(query: str) -> sql.SQL:
    """The migration author's own SQL: code, like the transforms, not data."""
    return sql.SQL(query)
