"""Binds a migration to both databases, SQL transforms included: the server itself says what it makes of each SELECT."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from replicator.core.selects import ReadColumn, Select, SelectedKey
from replicator.core.tables import Column, Table
from replicator.errors import MigrationError, ReplicatorError
from replicator.mapping.plan import Plan, PlannedTransform, Source, queries_of, resolve
from replicator.migration import Direction, Migration
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.authored import refused
from replicator.postgres.ddl.rewriting import placed, rewritten
from replicator.postgres.ddl.statements import closes_what_it_opens, split
from replicator.postgres.rows.sql_derivation import image_columns, try_statements
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.postgres.session.server import fetch
from replicator.postgres.trying.described import collations, describe_query
from replicator.postgres.trying.purity import impurities
from replicator.postgres.trying.rehearsal import LOCK_TIMEOUT

OLD = "pg_temp.replicator_old"
NEW = "pg_temp.replicator_new"
VIEW = "pg_temp.replicator_select"
KEY_VIEW = "pg_temp.replicator_key"

MEND = "Mend the transform."

# An array of a composite type unnests to columns, and there are no arrays of arrays: these have no delimiter here.
DELIMITERS = """
    WITH RECURSIVE under AS (
        SELECT name, to_regtype(name)::oid AS oid, to_regtype(name)::oid AS base FROM unnest(%(names)s::text[]) AS name
        UNION ALL
        SELECT u.name, u.oid, t.typbasetype FROM under u JOIN pg_type t ON t.oid = u.base WHERE t.typtype = 'd'
    )
    SELECT u.name, d.typdelim::text AS delimiter FROM under u
    JOIN pg_type d ON d.oid = u.oid JOIN pg_type b ON b.oid = u.base AND b.typtype <> 'd'
    WHERE d.typarray <> 0 AND b.typtype <> 'c' AND (d.typtype = 'd' OR d.typcategory <> 'A')
"""

MISSING_TYPES = "SELECT name FROM unnest(%(names)s::text[]) AS name WHERE to_regtype(name) IS NULL"

RESULT = """
    SELECT attname::text AS name FROM pg_attribute
    WHERE attrelid = %(view)s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

# A whole row, of whatever relation in the SELECT, has no number of a column: then all of them count as read.
READS = """
    SELECT a.attname::text AS name FROM pg_rewrite r CROSS JOIN pg_attribute a
    WHERE r.ev_class = %(view)s::regclass AND a.attrelid = %(old)s::regclass AND a.attnum > 0 AND (
        r.ev_action::text ~ ':varattno 0 ' OR EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
        )
    ) ORDER BY a.attnum
"""


async def bound_plan(
    migration: Migration,
    direction: Direction,
    source: Connection,
    target: Connection,
    tables: tuple[Mapping[str, Table], Mapping[str, Table]],
) -> Plan:
    """Bind one direction to the tables that exist.

    :param tables: the source's and the target's, by name.
    :raises MigrationError: naming each transform, and the table, column or SQL that does not fit.
    """
    places = await read_places(source)
    queries = {name: rewritten(query, places) for name, query in queries_of(migration, direction).items()}
    columns = {name: await describe_query(source, name, query) for name, query in queries.items()}
    return await compiled(placed(resolve(migration, direction, *tables, columns), places), source, target)


async def compiled(plan: Plan, source: Connection, target: Connection) -> Plan:
    """A plan whose SQL transforms know what they read and return.

    :param target: where they run. What is made for the trial is rolled back.
    :raises MigrationError: a SELECT does not run, reads other tables, varies, or does not fit the target.
    """
    sources: dict[str, Source] = {}
    problems: dict[str, str] = {}
    for name, each in plan.sources.items():
        transforms = each.transforms
        if any(isinstance(one.function, Select) for one in transforms):
            text = await collations(source, _rows_of(each), [column.name for column in each.columns])
            transforms = tuple([await _Trial(target, each, one, text).run(problems) for one in transforms])
        sources[name] = replace(each, transforms=transforms)
    if problems:
        raise MigrationError("; ".join(problems) + ".", " ".join(dict.fromkeys(problems.values())))
    return replace(plan, sources=sources)


def _rows_of(source: Source) -> str:
    if source.table is None:
        return source.query or ""
    return sql.SQL("SELECT * FROM {}").format(identifier(source.table.name.schema, source.table.name.table)).as_string()


class _Trial:
    """One transform, if it is one in SQL: the server makes views of its SELECT and its key, which are rolled back."""

    def __init__(
        self, target: Connection, source: Source, transform: PlannedTransform, collated: Mapping[str, str]
    ) -> None:
        self._target = target
        self._source = source
        self._transform = transform
        self._collated = collated
        self._untyped: set[str] = set()

    async def run(self, problems: dict[str, str]) -> PlannedTransform:
        """The transform as it runs; what is wrong with it is added to ``problems``, with the remedy."""
        if not isinstance(self._transform.function, Select):
            return self._transform
        try:
            with translated():
                async with self._target.transaction(force_rollback=True):
                    await self._target.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                    found = await self._compiled(self._transform.function)
                    if found.key is not None or self._transform.key is None:
                        await try_statements(self._target, found, self._source)
                    return found
        except MigrationError as error:
            problems[f"transform {self._transform.name}: {error.problem.rstrip('.')}"] = error.remedy or MEND
        except ReplicatorError as error:
            if error.transient:
                raise
            problem, remedy = refused(error, MEND)
            problems[f"transform {self._transform.name}: its SQL does not run: {problem.rstrip('.')}"] = remedy
        return self._transform

    async def _compiled(self, select: Select) -> PlannedTransform:
        select = replace(select, text=_one_query(select.text, "SELECT"))
        await self._create_old(self._source.columns)
        text = f"SELECT new.* FROM {OLD} AS old CROSS JOIN LATERAL (\n{select.text}\n) AS new"
        reads = await self._viewed(VIEW, text)
        gives = tuple([each["name"] for each in await fetch(self._target, RESULT, view=VIEW)])
        self._refuse_columns(gives)
        await self._assign(gives, VIEW)
        key = self._transform.key
        if isinstance(key, SelectedKey):
            key = await self._compiled_key(key)
        return replace(self._transform, function=replace(select, reads=reads, gives=gives), key=key)

    async def _compiled_key(self, key: SelectedKey) -> SelectedKey:
        names = self._transform.target.key
        key = replace(key, text=_one_query(key.text, "key="))
        await self._target.execute(f"DROP TABLE {OLD} CASCADE")
        await self._create_old([self._source.by_name[name] for name in self._source.key])
        called = comma([identifier(name) for name in names]).as_string()
        try:
            reads = await self._viewed(
                KEY_VIEW, f"SELECT new.* FROM {OLD} AS old CROSS JOIN LATERAL (SELECT {key.text}\n) AS new({called})"
            )
            width = len(await fetch(self._target, RESULT, view=KEY_VIEW))
            if width != len(names):
                raise MigrationError(
                    f"its key= has {width} columns; the primary key of {self._transform.target.name} has {len(names)}"
                )
            await self._assign(names, KEY_VIEW)
        except ReplicatorError as error:
            if error.transient or isinstance(error, MigrationError):
                raise
            problem, remedy = refused(error, f"It may read only what is the key of {self._source.name}.")
            raise MigrationError(f"its key= does not run: {problem}", remedy) from None
        return replace(key, reads=reads)

    async def _create_old(self, columns: Sequence[Column]) -> None:
        names = [each.bare_type for each in columns]
        missing = {each["name"] for each in await fetch(self._target, MISSING_TYPES, names=names)}
        self._untyped = {each.name for each in columns if each.bare_type in missing}
        typed = [
            each if each.name not in self._untyped else replace(each, type="text", cast="text") for each in columns
        ]
        await self._target.execute(
            sql.SQL("CREATE TEMP TABLE replicator_old ({})").format(image_columns(typed, self._collated))
        )

    async def _viewed(self, view: str, text: str) -> tuple[ReadColumn, ...]:
        """Make a view of a SELECT; gives the columns of ``old`` that it reads. Raises MigrationError for bad ones."""
        name = view.removeprefix("pg_temp.")
        with translated():
            await self._target.execute(f"CREATE TEMP VIEW {name} AS {text}".encode())
        impure = await impurities(self._target, view, OLD, text)
        if impure is not None:
            raise impure
        read = [each["name"] for each in await fetch(self._target, READS, view=view, old=OLD)]
        if untyped := [each for each in read if each in self._untyped]:
            types = ", ".join(sorted({self._source.by_name[each].bare_type for each in untyped}))
            raise MigrationError(
                f"it reads {', '.join(untyped)} of type {types}, which the database of {self._transform.target.name} "
                "does not have",
                "An SQL transform runs in the database of its target: create the type there, or write the transform "
                "in Python.",
            )
        named = {each: self._source.by_name[each].bare_type for each in read}
        found = await fetch(self._target, DELIMITERS, names=list(set(named.values())))
        delimiters = {each["name"]: each["delimiter"] for each in found}
        return tuple(
            ReadColumn(name=each, collation=self._collated.get(each, ""), delimiter=delimiters.get(named[each], ""))
            for each in read
        )

    def _refuse_columns(self, gives: Sequence[str]) -> None:
        target = self._transform.target
        if lacking := [name for name in gives if name not in target.by_name]:
            raise MigrationError(
                f"it returns {', '.join(lacking)}, and {target.name} has no such column",
                "Name each value of the SELECT as its column is: expression AS name.",
            )
        if unwritable := [name for name in gives if name in target.unwritable]:
            raise MigrationError(
                f"it returns {', '.join(unwritable)}, which {target.name} generates itself",
                "Leave it out of the SELECT.",
            )
        given = {*gives, *(target.key if self._transform.key is not None else ())}
        if lacking := [name for name in target.key if name not in given]:
            raise MigrationError(
                f"it does not return {', '.join(lacking)}, which is in the primary key of {target.name}",
                "Return the whole primary key.",
            )

    async def _assign(self, columns: Sequence[str], view: str) -> None:
        """As an INSERT assigns: the server says what does not. On a copy, for no lock is taken on the target so."""
        target = self._transform.target.name
        await self._target.execute(
            sql.SQL("CREATE TEMP TABLE IF NOT EXISTS replicator_new (LIKE {})").format(
                identifier(target.schema, target.table)
            )
        )
        listed = comma([identifier(name) for name in columns])
        explained = sql.SQL("EXPLAIN INSERT INTO {} ({}) SELECT {} FROM {}").format(
            sql.SQL(NEW), listed, listed, sql.SQL(view)
        )
        try:
            with translated():
                await self._target.execute(explained)
        except ReplicatorError as error:
            if error.transient:
                raise
            problem, _ = refused(error)
            raise MigrationError(
                f"what it returns cannot be assigned: {problem}",
                "Cast it in the SELECT, as in expression::type AS name; NULL needs a type too.",
            ) from None


def _one_query(text: str, what: str) -> str:
    """The text without comments. Raises MigrationError for one that would end the brackets that it is put into."""
    statements = split(text)
    if len(statements) != 1 or not closes_what_it_opens(statements[0]):
        raise MigrationError(f"its {what} is not one query", "Write one SELECT, with its brackets in pairs.")
    return statements[0]
