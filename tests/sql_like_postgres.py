"""Our reading of SQL is that of Postgres' own parser, on all the SQL that there is here.

``pglast`` is that parser (of Postgres 18) as a library. Here ours is held against it; ``statements.py`` says why the
program does not use it. ``unit/test_sql_like_postgres.py`` runs this in a process of its own.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pglast.visitors
import pytest
from pglast import ast as nodes
from pglast.parser import ParseError, scan
from pglast.stream import RawStream

from replicator.core.name_map import NameMap
from replicator.core.tables import Name
from replicator.postgres.ddl.rewriting import named, rewritten
from replicator.postgres.ddl.statements import split

ROOT = Path(__file__).parents[1]
CODE = ("tests", "replicator", "transforms", "deploy")
# Those in `deploy` are read by psql, which has commands of its own.
FILES = sorted(each for name in ("sql", "replicator", "tests") for each in (ROOT / name).rglob("*.sql"))
TABLE = re.compile(r'\bTABLE\s+[\w"]+\.', re.IGNORECASE)
VISITOR: Any = pglast.visitors.Visitor
COMMENTS = ("SQL_COMMENT", "C_COMMENT")


def parsed(text: str) -> tuple[Any, ...]:
    """What Postgres reads in it; nothing where it is no SQL."""
    try:
        return tuple(pglast.parse_sql(text))
    except (ParseError, ValueError):
        return ()


@cache
def texts() -> tuple[str, ...]:
    """Every SQL file, and every string in the code that Postgres can read."""
    strings = {
        node.value: None
        for folder in CODE
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    }
    return tuple(text for text in [*(each.read_text() for each in FILES), *strings] if parsed(text))


def words(statement: str) -> list[str]:
    """What a statement is made of, without comments."""
    return [statement[each.start : each.end + 1] for each in scan(statement) if each.name not in COMMENTS]


class Names(VISITOR):  # type: ignore[misc]
    """Collects the tables that a statement names with their schema, or puts others in their place."""

    def __init__(self, others: Mapping[tuple[str, ...], tuple[str, str]] = MappingProxyType({})) -> None:
        super().__init__()
        self.found: set[tuple[str, ...]] = set()
        self.plain: list[tuple[int, str]] = []
        self.common: set[str] = set()
        self.writes = False
        self.others = others

    def visit_RangeVar(self, _: Any, node: Any) -> None:  # noqa: N802  # as the library has it
        if not node.schemaname:
            self.plain.append((node.location, node.relname))
            return
        name = (node.schemaname, node.relname)
        self.found.add(name)
        if name in self.others:
            if node.alias is None:
                node.alias = nodes.Alias(aliasname=node.relname)
            node.schemaname, node.relname = self.others[name]

    def visit_TypeName(self, _: Any, node: Any) -> None:  # noqa: N802
        name = tuple(each.sval for each in node.names or ())
        if len(name) == 2 and name[0] != "pg_catalog":  # what SQL calls interval is pg_catalog.interval to the parser
            self.found.add(name)
            node.names = tuple(nodes.String(sval=each) for each in self.others.get(name, name))

    def visit_ColumnRef(self, _: Any, node: Any) -> None:  # noqa: N802
        name = tuple(getattr(each, "sval", "*") for each in node.fields)
        if len(name) > 2:
            self.found.add(name[:2])
            if name[:2] in self.others:
                node.fields = node.fields[1:]

    def visit_CommonTableExpr(self, _: Any, node: Any) -> None:  # noqa: N802
        self.common.add(node.ctename)
        self.writes |= not isinstance(node.ctequery, nodes.SelectStmt)


class Anything:
    """Holds every name."""

    def __contains__(self, _: object) -> bool:
        return True


def queries() -> Iterator[str]:
    """Every query that only reads, with a schema before each table that had none."""
    for text in texts():
        for statement in split(text):
            found = parsed(statement)
            if len(found) != 1 or not isinstance(found[0].stmt, nodes.SelectStmt) or found[0].stmt.intoClause:
                continue
            names = Names()
            names(found)
            query = statement
            for place in sorted({at for at, name in names.plain if name not in names.common}, reverse=True):
                query = f"{query[:place]}shop.{query[place:]}"
            # To the parser, TABLE is SELECT * FROM; but it takes no alias.
            if not names.writes and not TABLE.search(query):
                yield query


def test_there_is_something_to_compare() -> None:
    assert len(FILES) >= 30
    assert len(texts()) > 2_000


def test_statements_are_split_as_postgres_splits_them() -> None:
    others = {
        text
        for text in texts()
        if [words(each) for each in split(text)] != [words(each) for each in pglast.split(text)]
    }
    assert others == {"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 end; SELECT 2; END"}, (
        "a limit that is known"
    )


def test_tables_are_found_as_postgres_finds_them() -> None:
    count = 0
    for query in queries():
        theirs = Names()
        theirs(parsed(query))
        ours = {(each.schema, each.table) for each in named(query, Anything())}  # type: ignore[arg-type]
        assert theirs.found <= ours, query
        count += len(theirs.found)
    assert count > 500


def test_a_query_that_is_rewritten_reads_the_other_tables_and_nothing_else_has_changed() -> None:
    differ = set()
    for query in queries():
        names = Names()
        names(parsed(query))
        others = {name: ("moved", f"{name[1]}_x") for name in names.found}
        places = NameMap({
            Name(schema=name[0], table=name[1]): Name(schema=other[0], table=other[1])
            for name, other in others.items()
        })  # fmt: skip
        wanted = parsed(query)
        Names(others)(wanted)
        if RawStream()(parsed(rewritten(query, places))) != RawStream()(wanted):
            differ.add(query)
    assert differ == {"SELECT * FROM public.people*"}, "a limit that is known"


@pytest.mark.parametrize("text", [each.read_text() for each in FILES], ids=[each.name for each in FILES])
def test_each_file_is_read_by_postgres(text: str) -> None:
    """Or what is compared above would be less than it seems."""
    assert parsed(text)
