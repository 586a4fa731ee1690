"""The text of a new table's files, part by part, as ``sql/new`` wants it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.core.tables import Name
from replicator.postgres.attached import Attached, Kind, Own, Piece, Text, rendered
from replicator.postgres.attached.deparsed import literal
from replicator.postgres.ddl.quoting import Quoter
from replicator.postgres.drafts import Draft
from replicator.postgres.drafts.expressions import in_place_of
from replicator.postgres.drafts.naming import fitting

PARTITIONED_NOT_VALID_SINCE: Final = 18_00_00
"""The first server that makes a foreign key of a partitioned table without looking at its rows."""

HASHED: Final = 4
"""Partitions of a table that is partitioned by HASH, for the author to make more of them."""


DEFAULT: Final = (
    "-- Takes the rows that no other partition takes. Make the partitions that you need before the rows are copied:\n"
    "-- when one is made later, Postgres looks through this one, and refuses it if rows of it are here.\n"
)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The schemas of a migration, and who may use the old one."""

    old: str
    new: str
    users: Sequence[str]
    """Roles with USAGE on the old one, quoted."""


class Parts:
    """Composes the statements of one new table."""

    def __init__(self, draft: Draft, schema: Schema, quote: Quoter, version: int) -> None:
        self.draft, self.schema, self.quote = draft, schema, quote
        self.table = Name(schema=schema.new, table=draft.copy.into)
        self.full = f"{quote(schema.new)}.{quote(draft.copy.into)}"
        self.partitioned = bool(self._of("partition key"))
        self.late = version < PARTITIONED_NOT_VALID_SINCE and self.partitioned

    # ---- what is there from the first row on

    def tables(self) -> list[str]:
        """The table with its primary key, its NOT NULLs and its CHECKs; who may use it."""
        schema = self.quote(self.schema.new)
        found = [f"CREATE SCHEMA IF NOT EXISTS {schema};"]
        found += [f"GRANT USAGE ON SCHEMA {schema} TO {each};" for each in self.schema.users]
        # An owner must be allowed to have tables in the schema.
        found += [f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {each.name};" for each in self._of("owner")]
        sequences = [each.statements for each in self._of("sequence")]
        found += [self._statement(made) for made, *_ in sequences]
        found += [self._create(), *self._partitions()]
        found += [self._statement(each) for _, *rest in sequences for each in rest]
        found += self._sql(self._of("storage", "compression", "column options"))
        found += self._sql(each for each in self._of("statistics target", "tablespace") if not each.of)
        found += self._sql(each for each in self._of("replica identity") if not _by_index(each))
        found += self._sql(self._of("row security"))
        found += self._sql(each for each in self._of("comment") if self._is_early(each))
        found += self._sql(self._of("owner"))
        return found + self._grants()

    def _create(self) -> str:
        lines = [self._column(each) for each in self._of("column")]
        lines += [self._text(each.fragment, each.name) for each in self._of("primary key", "check")]
        tail = [self._text(each.fragment) for each in self._of("partition key")]
        tail += [self._text(each.fragment) for each in self._of("storage parameters") if not each.of]
        inner = ",\n".join(f"    {each}" for each in lines)
        return f"CREATE TABLE IF NOT EXISTS {self.full} (\n{inner}\n){''.join(f' {each}' for each in tail)};"

    def _column(self, column: Attached) -> str:
        parts = [self._text(column.fragment)]
        for kind in ("identity", "default", "not null"):
            parts += [self._text(each.fragment) for each in self._of(kind) if each.name == column.name]
        return " ".join(parts)

    def _grants(self) -> list[str]:
        """Those that differ in nothing but the privilege together."""
        found: dict[Text, list[str]] = {}
        for each in self._of("grant"):
            opening, privilege, *rest = each.statements[0]
            found.setdefault((opening, *rest), []).append(str(privilege))
        return [self._statement((opening, ", ".join(each), *rest)) for (opening, *rest), each in found.items()]

    # ---- partitions

    def _partitions(self) -> Iterator[str]:
        """The old table's, and one that takes every other row: none is to be refused for want of a partition."""
        copy = self.draft.copy
        keys = [self._text(each.fragment).upper() for each in self._of("partition key")]
        given = [] if copy.partition_by else self.draft.original.partitions
        names = {copy.source: self.full}
        for each in given:
            names[each.name.table] = self._name(each.name.table)
            sub = f" PARTITION BY {self._renamed(each.key)}" if each.key else ""
            yield self._partition(names[each.name.table], names[each.parent], f"{each.bound}{sub}")
        for key in keys:
            if key.startswith("PARTITION BY HASH"):
                yield from () if given else self._hashed()
            elif not any(each.is_default and each.level == 1 for each in given):
                yield f"{DEFAULT}{self._partition(self._name(fitting(copy.into, '_default')), self.full, 'DEFAULT')}"

    def _hashed(self) -> Iterator[str]:
        for number in range(HASHED):
            bound = f"FOR VALUES WITH (MODULUS {HASHED}, REMAINDER {number})"
            yield self._partition(self._name(fitting(self.draft.copy.into, f"_{number}")), self.full, bound)

    def _partition(self, name: str, parent: str, bound: str) -> str:
        return f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {parent} {bound};"

    def _renamed(self, key: str) -> str:
        for old, new in self.draft.copy.rename.items():
            key = in_place_of(key, old, self.quote(new))
        return key

    # ---- what comes when the rows are there

    def indexes(self) -> list[str]:
        """Indexes, those of unique constraints too; extended statistics."""
        made = [self._index(each.statements[0], each.name) for each in self._of("index")]
        made += [self._index(each.by_index[0], each.name) for each in self._of("unique") if self._is_by_index(each)]
        made += self._sql(self._of("statistics"))
        plain = {each.name for each in self._of("index")}
        made += self._sql(
            each for each in self._of("statistics target", "tablespace") if each.name in plain and each.of
        )
        made += self._sql(
            each
            for each in self._of("comment")
            if each.of == "statistics" or (each.of == "index" and each.name in plain)
        )
        return made

    def _is_by_index(self, unique: Attached) -> bool:
        """Whether its index can be made by itself, without a lock that keeps the replicator off."""
        return bool(unique.by_index) and not self.partitioned

    def _index(self, text: Text, name: str) -> str:
        how = "IF NOT EXISTS" if self.partitioned else "CONCURRENTLY IF NOT EXISTS"
        opening, *rest = text
        return self._statement((f"{opening}{how} ", *rest), name)

    def constraints(self) -> list[str]:
        """What holds for all rows together; what runs for each statement."""
        found = [
            self._statement(each.by_index[1] if self._is_by_index(each) else each.statements[0], each.name)
            for each in self._of("unique")
        ]
        found += self._sql(self._of("exclusion"))
        for each in self._of("foreign key"):
            if not self._leads_out(each):
                found += self._foreign_key(each)
        plain = {each.name for each in self._of("index")}
        of_index = self._of("storage parameters", "statistics target", "tablespace")
        found += self._sql(each for each in of_index if each.of and each.name not in plain)
        found += self._sql(each for each in self._of("replica identity") if _by_index(each))
        found += self._sql(self._of("clustering", "policy", "trigger"))
        return found + self._sql(each for each in self._of("comment") if self._is_late(each))

    def _foreign_key(self, key: Attached) -> list[str]:
        (text,) = key.statements
        if self.late:
            return [self._statement(text, key.name)]
        validated: Text = ("ALTER TABLE ", Own.TABLE, " VALIDATE CONSTRAINT ", Own.NAME)
        return [self._statement((*text, " NOT VALID"), key.name), self._statement(validated, key.name)]

    # ---- what comes with the cutover

    def cutover(self) -> list[str]:
        """Foreign keys to tables that stay: until then they would fail the application's statements."""
        look = (
            "-- Of a partitioned table, Postgres before 18 looks at the rows at once, while writers wait.\n" * self.late
        )
        return [look + self._at_the_cutover(each) for each in self._of("foreign key") if self._leads_out(each)]

    def _at_the_cutover(self, key: Attached) -> str:
        old = f"{self.quote(self.schema.old)}.{self.quote(self.table.table)}"
        here = f"coalesce(to_regclass({literal(self.full)}), to_regclass({literal(old)}))"
        comments = [each for each in self._of("comment") if each.of == "constraint" and each.name == key.name]
        lines = [self._executed(key, here, "" if self.late else " NOT VALID")]
        lines += [self._executed(each, here) for each in comments]
        return "DO $replicator$ BEGIN\n" + "\n".join(lines) + "\nEND $replicator$;"

    def _executed(self, item: Attached, here: str, end: str = "") -> str:
        """A statement on the table wherever it is by then."""
        (text,) = item.statements
        place = text.index(Own.TABLE)
        before, after = self._text(text[:place], item.name), self._text((*text[place + 1 :], end), item.name)
        return f"    EXECUTE {literal(before)} || {here}\n        || {literal(after)};"

    def rollback(self) -> list[str]:
        """What undoes it."""
        text: Text = ("ALTER TABLE ", Own.TABLE, " DROP CONSTRAINT IF EXISTS ", Own.NAME)
        return [self._statement(text, each.name) for each in self._of("foreign key") if self._leads_out(each)]

    def _leads_out(self, key: Attached) -> bool:
        return key.parent is not None and key.parent.schema != self.schema.new

    # ---- comments

    def _is_early(self, comment: Attached) -> bool:
        early = {each.name for each in self._of("primary key", "check")}
        if comment.of in ("constraint", "index"):
            return comment.name in early
        return comment.of in ("table", "column", "sequence")

    def _is_late(self, comment: Attached) -> bool:
        out = {each.name for each in self._of("foreign key") if self._leads_out(each)}
        plain = {each.name for each in self._of("index")}
        if self._is_early(comment) or comment.of == "statistics" or (comment.of == "index" and comment.name in plain):
            return False
        return not (comment.of == "constraint" and comment.name in out)

    # ---- texts

    def _of(self, *kinds: Kind) -> list[Attached]:
        return [each for each in self.draft.items if each.kind in kinds]

    def _text(self, text: Iterable[Piece], name: str = "") -> str:
        return rendered(text, self.table, name=name, quote=self.quote)

    def _statement(self, text: Iterable[Piece], name: str = "") -> str:
        return f"{self._text(text, name)};"

    def _sql(self, items: Iterable[Attached]) -> list[str]:
        return [self._statement(text, each.name) for each in items for text in each.statements]

    def _name(self, name: str) -> str:
        return f"{self.quote(self.schema.new)}.{self.quote(name)}"


def _by_index(item: Attached) -> bool:
    return "USING INDEX" in str(item.statements[0][-1])
