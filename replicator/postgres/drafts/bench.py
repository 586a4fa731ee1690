"""Where drafts are made: two schemas that nobody else sees, and the names of things in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Final

from replicator.core.copies import Copy
from replicator.core.name_map import NameMap
from replicator.core.tables import Name
from replicator.errors import MigrationError, ReplicatorError
from replicator.postgres.attached import Attached, Other, Piece, Text, rendered
from replicator.postgres.ddl.authored import refused
from replicator.postgres.ddl.quoting import Quoter
from replicator.postgres.ddl.rewriting import rewritten
from replicator.postgres.drafts.model import Draft, Original, Remark
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.rehearsal import try_statement

LAST: Final = ("owner", "comment", "grant")
"""What needs all others, foreign keys too."""


class Bench:
    """The schemas, in a transaction of the caller's that is rolled back."""

    def __init__(
        self, connection: Connection, old: str, new: str, originals: Sequence[Original], quote: Quoter
    ) -> None:
        self.connection = connection
        self.old, self.new, self.quote = old, new, quote
        self.drafts = [Draft(original=each) for each in originals]
        tag = token_hex(6)
        # Names that need no quotes and stand in no text of the application's: they can be replaced in any.
        self.first, self.second = f"replicator_draft_{tag}_1", f"replicator_draft_{tag}_2"
        self.stands_in: dict[Name, Name] = {}
        """By what stands for it in the drafts, a parent of foreign keys that is not copied."""

    async def make_schema(self, schema: str) -> None:
        """Make one of the two; the owners of the old tables may own tables in it."""
        await self.must(f"CREATE SCHEMA {schema}", "No table")
        owners = {one.name for each in self.drafts for one in each.original.items if one.kind == "owner"}
        for owner in sorted(owners):
            await try_statement(self.connection, f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}")

    async def create(self, table: Name, columns: Sequence[Attached], key: Text, copy: Copy) -> None:
        """Make a table. Raises MigrationError when Postgres refuses it."""
        lines = ", ".join(rendered(each.fragment, table, quote=self.quote) for each in columns)
        await self.must(f"CREATE TABLE {self.full(table)} ({lines}) {rendered(key, table, quote=self.quote)}", copy)

    async def must(self, statement: str, of: Copy | str) -> None:
        """Run a statement. Raises MigrationError when Postgres refuses it."""
        if (error := await try_statement(self.connection, statement)) is None:
            return
        if error.transient:
            raise error
        problem, remedy = refused(error, "Correct the copy in the migration.")
        what = of if isinstance(of, str) else f"The new table {of.into}, a copy of {of.source},"
        raise MigrationError(f"{what} cannot be drafted: {problem}", remedy) from error

    async def put(
        self, item: Attached, table: Name, others: Mapping[Name, Name] | None = None
    ) -> ReplicatorError | None:
        """Put it on a table of the drafts; gives the error if Postgres refuses that."""
        shown = "\n".join(
            f"{rendered(each, table, name=item.name, others=others, quote=self.quote)};" for each in item.statements
        )
        if item.kind == "policy":  # it may read tables that are copied, too
            copied = {
                Name(schema=self.old, table=each.copy.source): Name(schema=table.schema, table=each.copy.into)
                for each in reversed(self.drafts)
            }
            shown = rewritten(shown, NameMap(copied))
        return await try_statement(self.connection, shown) if shown else None

    def refusal(self, item: Attached, copy: Copy, error: ReplicatorError) -> Remark:
        """What to tell when Postgres has refused it."""
        problem, remedy = refused(error)
        return Remark(
            what=str(item),
            why=problem.rstrip("."),
            remedy=remedy or "Write what the new table needs in its place.",
            sql=self.shown(item, copy),
        )

    # ---- names

    def full(self, name: Name) -> str:
        """A name with its schema, for SQL."""
        return f"{self.quote(name.schema)}.{self.quote(name.table)}"

    def shown(self, item: Attached, copy: Copy) -> str:
        """Its statements as they would be on the new table."""
        return self.final(item).sql(Name(schema=self.new, table=copy.into), quote=self.quote)

    def in_second(self, item: Attached) -> Attached:
        """What is read from the first schema, for the second."""

        def moved(name: Name) -> Name:
            here = name.schema == self.first and name not in self.stands_in
            return Name(schema=self.second, table=name.table) if here else name

        return _replaced(item, {self.first: self.second}, moved)

    def final(self, item: Attached) -> Attached:
        """What is read from either, for the new schema."""

        def moved(name: Name) -> Name:
            here = name.schema in (self.first, self.second)
            return self.stands_in.get(name, Name(schema=self.new, table=name.table) if here else name)

        new = self.quote(self.new)
        return _replaced(item, {self.first: new, self.second: new}, moved)


def _replaced(item: Attached, schemas: Mapping[str, str], moved: Callable[[Name], Name]) -> Attached:
    def one(piece: Piece) -> Piece:
        if isinstance(piece, Other):
            return Other(moved(piece.table))
        if isinstance(piece, str):
            for before, after in schemas.items():
                piece = piece.replace(f"{before}.", f"{after}.")
        return piece

    def text(pieces: Text) -> Text:
        return tuple(one(each) for each in pieces)

    return replace(
        item,
        statements=tuple(text(each) for each in item.statements),
        fragment=text(item.fragment),
        by_index=tuple(text(each) for each in item.by_index),
        parent=None if item.parent is None else moved(item.parent),
    )
