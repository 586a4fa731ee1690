"""The migration's SQL while its tables bear other names than it knows: names with their schema are put right.

It is for queries, which only read. All else in the text stays as it is, comments too. ``statements`` says why no parser
is used. What is not understood:

- names without a schema, and those in strings and in the bodies of functions: they stay as they are;
- an alias that is called as a schema of the migration, before a column that is called as a table which has moved;
- the old ``table*``: its alias would have to follow the star;
- statements that write: a keyword after the table is taken for an alias, a list of columns for a call.

A cutover that renames asks the server, in its own transaction, whether each query still reads the tables that it read
before; if not, it is refused and nothing has moved.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from replicator.core.name_map import NameMap
from replicator.core.selects import Select, SelectedKey
from replicator.core.tables import Name
from replicator.mapping.plan import Plan, PlannedTransform
from replicator.postgres.ddl.statements import TOKEN, after_block

FOLLOWS = (
    "where group having order limit offset fetch for union intersect except window join inner left right full outer "
    "cross natural on using tablesample lateral"
)
NO_ALIAS = frozenset(FOLLOWS.split())
"""What may follow a table in FROM and is not another name for it."""


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: Literal["name", "gap", "other"]
    text: str

    @property
    def named(self) -> str:
        """A name as the catalogue has it."""
        if self.text.startswith('"'):
            return self.text[1:-1].replace('""', '"')
        return self.text.lower()


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """``schema.table`` in a text: its tokens, and whether it stands for the table or begins the name of a column."""

    begin: int
    end: int
    name: Name
    of_column: bool
    wants_alias: bool


def rewritten(text: str, places: NameMap) -> str:
    """SQL with each table that is named with its schema found where it is now.

    A table that bears another name keeps its old one as an alias, where it has none of its own. Names without a
    schema, and those in strings and in the bodies of functions, stay as they are.
    """
    if not places.moved:
        return text
    tokens = list(_tokens(text))
    parts = [each.text for each in tokens]
    for each in _references(tokens):
        now = places.moved.get(each.name)
        if now is None:
            continue
        renamed = now.table != each.name.table
        if each.of_column and renamed:
            put = _quoted(each.name.table)
        else:
            put = f"{_quoted(now.schema)}.{_quoted(now.table)}"
            if renamed and each.wants_alias:
                put += f" AS {_quoted(each.name.table)}"  # after a point it may be a reserved word
        parts[each.begin : each.end] = [put, *[""] * (each.end - each.begin - 1)]
    return "".join(parts)


def in_one_line(text: str) -> str:
    """The same SQL on one line, as far as no string goes over several."""
    parts: list[str] = []
    for each in _tokens(text):
        if each.kind != "gap":
            parts.append(each.text)
        elif parts and parts[-1] != " ":
            parts.append(" ")
    return "".join(parts).strip()


def with_names(text: str, names: Mapping[str, str]) -> str:
    """SQL with each of these names replaced, wherever it stands; what is in a string stays."""
    return "".join(
        _quoted(names[each.named]) if each.kind == "name" and each.named in names else each.text
        for each in _tokens(text)
    )


def wording(text: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """What SQL is made of, with these names replaced: the same for texts that differ only in spaces and quotes."""
    return tuple(
        _quoted(names.get(each.named, each.named)) if each.kind == "name" else each.text
        for each in _tokens(text)
        if each.kind != "gap"
    )


def named(text: str, names: Collection[Name]) -> set[Name]:
    """Which of these tables the SQL names, with their schema."""
    return {each.name for each in _references(list(_tokens(text))) if each.name in names}


def named_anywhere(text: str, names: Collection[Name]) -> set[Name]:
    """Which of these tables SQL names that is no query: with a list of columns after it, in a string, in a body."""
    found, at = {each.name for each in _references(list(_tokens(text)), calls=True) if each.name in names}, 0
    while token := TOKEN.match(text, at):
        at = after_block(text, token.end()) if token["block"] else token.end()
        if token["body"]:
            found |= named_anywhere(token["body"].removeprefix(token["tag"]).removesuffix(token["tag"]), names)
        elif token["quoted"] and token["quoted"].endswith("'"):
            found |= named_anywhere(token["quoted"].partition("'")[2][:-1].replace("''", "'"), names)
    return found


def placed(plan: Plan, places: NameMap) -> Plan:
    """A plan whose SQL finds the tables where they are now."""
    if not places.moved:
        return plan
    sources = {
        name: replace(
            each,
            query=None if each.query is None else rewritten(each.query, places),
            transforms=tuple(_placed_select(transform, places) for transform in each.transforms),
        )
        for name, each in plan.sources.items()
    }
    doubled = NameMap({_doubled(called): _doubled(now) for called, now in places.moved.items()})
    dependencies = {
        table: tuple(
            replace(each, lookup=None if each.lookup is None else rewritten(each.lookup, doubled)) for each in found
        )
        for table, found in plan.dependencies.items()
    }
    return replace(plan, sources=sources, dependencies=dependencies, renamed=True)


def _placed_select(transform: PlannedTransform, places: NameMap) -> PlannedTransform:
    """The row type of a table that has moved is found under its new name."""
    function, key = transform.function, transform.key
    if isinstance(function, Select):
        function = replace(function, text=rewritten(function.text, places))
    if isinstance(key, SelectedKey):
        key = replace(key, text=rewritten(key.text, places))
    return replace(transform, function=function, key=key)


def _doubled(name: Name) -> Name:
    """As a lookup has it, which is given parameters."""
    return Name(schema=name.schema.replace("%", "%%"), table=name.table.replace("%", "%%"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while token := TOKEN.match(text, at):
        begin, at = at, token.end()
        if token["block"]:
            at = after_block(text, at)
            yield _Token(kind="gap", text=text[begin:at])
        elif token["comment"] or token[0].isspace():
            yield _Token(kind="gap", text=token[0])
        elif token["word"] or token[0].startswith('"'):
            yield _Token(kind="name", text=token[0])
        else:
            yield _Token(kind="other", text=token[0])


def _references(tokens: list[_Token], *, calls: bool = False) -> Iterator[_Reference]:
    """Every ``name.name`` that no other name or point stands before, and that is no call of a function."""
    telling = [place for place, each in enumerate(tokens) if each.kind != "gap"]
    for number, begin in enumerate(telling):
        first, point, second = (_at(tokens, telling, number + step) for step in range(3))
        if first.kind != "name" or point.text != "." or second.kind != "name":
            continue
        before, after = _at(tokens, telling, number - 1), _at(tokens, telling, number + 3)
        if before.text == "." or (after.text == "(" and not calls):
            continue
        bare = before.text == ":" or (
            before.kind == "name" and before.named in {"as", "table"}
        )  # casts, and TABLE name
        alias = after.kind == "name" and (after.text.startswith('"') or after.named not in NO_ALIAS)
        yield _Reference(
            begin=begin,
            end=telling[number + 2] + 1,
            name=Name(schema=first.named, table=second.named),
            of_column=after.text == ".",
            wants_alias=not bare and not alias,
        )


def _at(tokens: list[_Token], telling: list[int], number: int) -> _Token:
    if 0 <= number < len(telling):
        return tokens[telling[number]]
    return _Token(kind="other", text="")
