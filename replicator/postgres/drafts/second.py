"""The second drafts: the new tables with their types and partitions, on which each thing is tried."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from replicator.core.copies import Copy
from replicator.core.tables import Name
from replicator.errors import ReplicatorError
from replicator.postgres.attached import Attached, Text, attached, rendered
from replicator.postgres.attached.columns import BITS
from replicator.postgres.ddl.rewriting import named_anywhere
from replicator.postgres.drafts.bench import LAST, Bench
from replicator.postgres.drafts.expressions import applied
from replicator.postgres.drafts.first import default_names
from replicator.postgres.drafts.model import Draft
from replicator.postgres.drafts.naming import beside_called
from replicator.postgres.drafts.remarks import names_tables, no_key, not_unique, uses_old, wider
from replicator.postgres.session.connect import translated
from replicator.postgres.session.server import fetch_plain

COLUMNS: Final = """
    SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type,
           coalesce(a.attnum = ANY (p.partattrs::int2[]), false) AS of_key,
           coalesce(0 = ANY (p.partattrs::int2[]), false) AS by_expression
    FROM pg_attribute a LEFT JOIN pg_partitioned_table p ON p.partrelid = a.attrelid
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

GENERATED: Final = " GENERATED ALWAYS AS ("

BODIES: Final = """
    SELECT format('%%I.%%I', n.nspname, p.proname) AS name, p.prosrc AS body
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE format('%%I.%%I', n.nspname, p.proname) = ANY (%(names)s)
"""


async def with_new_types(bench: Bench) -> None:
    """Make them, and leave in each draft what Postgres admits on its table, and remarks for the rest."""
    await bench.make_schema(bench.second)
    found = await attached(bench.connection, bench.first, [each.copy.into for each in bench.drafts])
    tables = [_Table(bench, each) for each in bench.drafts]
    for each in tables:
        # Whoever makes a draft owns it, so rights are read from the old table.
        own = [bench.in_second(one) for one in found[each.copy.into] if one.kind not in ("owner", "grant")]
        await each.make([*own, *each.rights()])
    for kinds in (("foreign key",), LAST):
        for each in tables:
            await each.try_those_of(kinds)
    for each in tables:
        await each.judge_triggers()
        each.judge_names()
        each.draft.items = [bench.final(one) for one in each.draft.items]


@dataclass
class _Table:
    """One new table in the second schema."""

    bench: Bench
    draft: Draft

    @property
    def copy(self) -> Copy:
        return self.draft.copy

    @property
    def name(self) -> Name:
        return Name(schema=self.bench.second, table=self.copy.into)

    async def make(self, items: Sequence[Attached]) -> None:
        """Make it, with all but foreign keys and what comes after these."""
        columns = self._columns(items)
        key: Text = next((each.fragment for each in items if each.kind == "partition key"), ())
        if self.copy.partition_by:
            key = (f"PARTITION BY {self.copy.partition_by}",)
        computed = [each for each in columns if each.statements and GENERATED in str(each.fragment[0])]
        await self.bench.create(self.name, [each for each in columns if each not in computed], key, self.copy)
        columns = [each for each in columns if each not in computed or await self._admits(each)]
        rows = await fetch_plain(self.bench.connection, COLUMNS, table=self.bench.full(self.name))
        types = {each["name"]: each["type"] for each in rows}
        if any(each["by_expression"] for each in rows):
            self.draft.remarks.append(no_key(self.copy))
        self.draft.key_columns = tuple(each["name"] for each in rows if each["of_key"])
        self.draft.items = columns + ([Attached(kind="partition key", fragment=key)] if key else [])
        for each in items:
            if each.kind in ("foreign key", *LAST):
                self.draft.items.append(each)
            elif each.kind == "default":
                await self._put_default(each, types)
            elif each.kind not in ("column", "partition key"):
                await self._put(_resized(each, types))

    async def _admits(self, column: Attached) -> bool:
        """Whether a generated column goes with the types that the others have now."""
        if error := await self.bench.put(column, self.name):
            self.draft.remarks.append(self.bench.refusal(column, self.copy, error))
        return error is None

    def _columns(self, items: Sequence[Attached]) -> list[Attached]:
        quote = self.bench.quote
        casts = {self._called(old): each.type for old, each in self.copy.cast.items()}
        found = [each for each in items if each.kind == "column"]
        typed = [
            each
            if each.name not in casts
            else replace(each, fragment=(f"{quote(each.name)} {casts[each.name]}",), statements=())
            for each in found
        ]
        return typed + [
            Attached(kind="column", name=name, columns=(name,), fragment=(f"{quote(name)} {each.definition}",))
            for name, each in self.copy.add.items()
        ]

    def _called(self, column: str) -> str:
        return self.copy.new_name(column) or column

    async def _put(self, item: Attached) -> None:
        lacking = [each for each in self.draft.key_columns if each not in item.columns]
        unique = item.kind == "unique" or (item.kind == "index" and "UNIQUE" in str(item.statements[0][0]))
        if lacking and unique:
            self.draft.remarks.append(not_unique(item, lacking, self.bench.shown(item, self.copy)))
            return
        if lacking and item.kind == "primary key":
            self.draft.remarks.append(wider(item, lacking))
            item = self._extended(item, lacking)
        if error := await self.bench.put(item, self.name):
            self.draft.remarks.append(self.bench.refusal(item, self.copy, error))
        else:
            self.draft.items.append(item)

    def _extended(self, key: Attached, lacking: Sequence[str]) -> Attached:
        columns = (*key.columns, *lacking)
        shown = f"PRIMARY KEY ({', '.join(self.bench.quote(each) for each in columns)})"
        return replace(
            key,
            columns=columns,
            fragment=(*key.fragment[:-1], shown),
            statements=((*key.statements[0][:-1], shown),),
        )

    # ---- defaults

    async def _put_default(self, item: Attached, types: Mapping[str, str]) -> None:
        error: ReplicatorError | None = None
        for each in await self._defaults(item, types):
            error = await self.bench.put(each, self.name)
            if error is None:
                self.draft.items.append(each)
                return
        if error is not None:
            self.draft.remarks.append(self.bench.refusal(item, self.copy, error))
            # The sequence of a serial has nothing else to do.
            self.draft.items = [
                each for each in self.draft.items if not (each.kind == "sequence" and each.columns == item.columns)
            ]

    async def _defaults(self, item: Attached, types: Mapping[str, str]) -> list[Attached]:
        """A default as it may be for a column of another type, the best first."""
        cast = next(((old, each) for old, each in self.copy.cast.items() if self._called(old) == item.name), None)
        if cast is None:
            return [item]
        value = item.fragment[1:]
        found: list[Text] = [value, ("(", *value, f")::{types[item.name]}")]
        shown = rendered(value, self.name, quote=self.bench.quote)
        if cast[1].using is not None and await self._is_of_old_type(cast[0], shown):
            # The new type may read such a value, and as another one: a time in the session's zone, for instance.
            columns = [
                each
                for each in self.draft.original.items
                if each.kind == "column" and GENERATED not in str(each.fragment[0])
            ]
            text = await applied(
                self.bench.connection, self.bench.quote, self.copy.source, columns, cast[0], cast[1].using, shown
            )
            found = [(text or f"({cast[1].using})",)]  # as it stands, Postgres says what is wrong with it as a default
        opening = item.statements[0][: -len(value)]
        return [replace(item, statements=((*opening, *each),), fragment=("DEFAULT ", *each)) for each in found]

    async def _is_of_old_type(self, column: str, shown: str) -> bool:
        """Whether a default has by itself the type that the column had: then the cast is to be done to it, too."""
        defined = next(each for each in self.draft.original.items if each.kind == "column" and each.name == column)
        query = f"SELECT * FROM (SELECT {shown} AS value) AS d LIMIT 0"  # described, and not evaluated
        try:
            with translated():
                async with self.bench.connection.transaction():
                    cursor = await self.bench.connection.execute(query.encode())
        except ReplicatorError:
            return False
        oid = next(each.type_code for each in cursor.description or ())
        (row,) = await fetch_plain(self.bench.connection, "SELECT format_type(%(oid)s, NULL) AS type", oid=oid)
        return str(defined.fragment[0]).startswith(f"{self.bench.quote(column)} {row['type']}")

    # ---- rights, and what comes last

    def rights(self) -> list[Attached]:
        """Owner and grants of the old table, by the new names of columns and sequences."""
        items, called = self.draft.original.items, default_names(self.draft)
        gone = {each.name for each in items if each.kind == "sequence" and each.columns[0] in self.copy.drop}
        gone |= {f"{self.copy.source}_{each}_seq" for each in self.copy.drop}
        found = []
        for each in items:
            if each.kind == "owner" or (each.kind == "grant" and each.of == "table"):
                found.append(each)
            elif each.kind == "grant" and each.of == "column":
                if (new := self.copy.new_name(each.columns[0])) is not None:
                    opening, privilege, *rest = each.statements[0]
                    privilege = f"{str(privilege).split(' (', maxsplit=1)[0]} ({self.bench.quote(new)})"
                    found.append(replace(each, columns=(new,), statements=((opening, privilege, *rest),)))
            elif each.kind == "grant" and each.beside not in gone:
                found.append(beside_called(each, called))
        return found

    async def try_those_of(self, kinds: Sequence[str]) -> None:
        """Take out what Postgres refuses, and tell it."""
        for each in [one for one in self.draft.items if one.kind in kinds]:
            if (error := await self.bench.put(each, self.name)) is None:
                continue
            self.draft.items.remove(each)
            if each.kind != "comment":  # what it is on is not there, which has been told
                self.draft.remarks.append(self.bench.refusal(each, self.copy, error))

    def judge_names(self) -> None:
        """Row types and sequences of old tables, where nothing has put the new ones in their place."""
        old = {Name(schema=self.bench.old, table=one.copy.source) for one in self.bench.drafts}
        old |= {
            Name(schema=self.bench.old, table=item.name)
            for one in self.bench.drafts
            for item in one.original.items
            if item.kind == "sequence"
        }
        for each in self.draft.items:
            if each.kind in ("foreign key", "comment", "owner", "grant"):
                continue
            texts = [piece for text in (each.fragment, *each.statements) for piece in text if isinstance(piece, str)]
            if found := named_anywhere(" ".join(texts), old):
                self.draft.remarks.append(uses_old(each, sorted(map(str, found))))

    async def judge_triggers(self) -> None:
        """Functions have their SQL as text: what a trigger's does with a table's name, only the author knows."""
        triggers = [each for each in self.draft.items if each.kind == "trigger"]
        names = [each.function for each in triggers]
        bodies = {each["name"]: each["body"] for each in await fetch_plain(self.bench.connection, BODIES, names=names)}
        for each in triggers:
            sources = [one.copy.source for one in self.bench.drafts]
            named = [one for one in sources if re.search(rf"(?<!\w){re.escape(one)}(?!\w)", bodies[each.function])]
            if named:
                self.draft.remarks.append(names_tables(each, named))


def _resized(item: Attached, types: Mapping[str, str]) -> Attached:
    """A sequence for a column of another type: it would end where the old type does."""
    if item.kind != "sequence" or types.get(item.columns[0]) not in BITS:
        return item
    made, *rest = item.statements
    return replace(item, statements=((*made[:2], f" AS {types[item.columns[0]]}", *made[3:]), *rest))
