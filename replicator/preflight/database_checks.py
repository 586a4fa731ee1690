"""Checks of a database: encoding, the schema, the rights to make what we need, and whose control tables are there."""

from dataclasses import dataclass
from typing import Literal

from replicator.postgres.catalog.inspect import Database
from replicator.preflight.facts import Consequence, Fact
from replicator.preflight.finding import Verdict, failed, listed, passed, warned

Label = Literal["source", "target"]


@dataclass(frozen=True, kw_only=True)
class DatabaseSubject:
    """A database, the migration, and the one that the control tables there belong to."""

    database: Database
    migration: str
    control: str | None
    renamed: bool
    """That one is over, and the tables that it has renamed bear these names."""
    side: Label
    published: bool
    """Whether publications are needed: the plugin is pgoutput."""
    """The source's schema must be there; the target's is made."""


def encoding(subject: DatabaseSubject) -> Verdict:
    """Text is handled as UTF-8 throughout; another encoding would refuse or change characters."""
    found = subject.database.encoding
    if found == "UTF8":
        return passed("UTF8")
    return failed(
        f"The database {subject.database.name} has the encoding {found}.",
        "Dump it and restore it into a database with ENCODING 'UTF8'.",
    )


def privileges(subject: DatabaseSubject) -> Verdict:
    """We make the control schema, the new schema and the publication, and stage rows in temporary tables."""
    database = subject.database
    wanted = {"CREATE": database.may_create, "TEMPORARY": database.may_stage}
    lacking = ", ".join(name for name, held in wanted.items() if not held)
    if not lacking:
        return passed("schemas and temporary tables may be created")
    return failed(
        f"The role {database.role} lacks {lacking} on the database {database.name}.",
        f"GRANT {lacking} ON DATABASE {database.quoted} TO {database.role};",
    )


def own_role(subject: DatabaseSubject) -> Verdict:
    """Who is the daemon's role reads and changes the control tables: rows that were kept, and what lets writes pass."""
    others = subject.database.others_as_us
    if not others:
        return passed("no session of others runs as our role")
    return warned(
        f"Sessions of others run as the role {subject.database.role}, and may do all that the daemon may: "
        f"{listed(others)}.",
        "Give the application a role of its own: see docs/operator/server.md, Roles.",
    )


def casts(subject: DatabaseSubject) -> Verdict:
    """We read values as text: a cast that calls a function would run it as us, and is not what the type reads."""
    found = subject.database.foreign_casts
    if not found:
        return passed("none to text calls a function of others")
    return failed(
        f"Casts to text call functions of other roles, which would run as {subject.database.role}: {listed(found)}.",
        "Drop them; without, a value becomes the text that its type reads:",
        *[f"DROP CAST ({each});" for each in found],
    )


def schema(subject: DatabaseSubject) -> Verdict | None:
    """Without USAGE none of a schema's tables can be read; without CREATE nothing new can be made in it."""
    database = subject.database
    if not database.has_schema:
        if subject.side == "target":
            return None
        return failed(f"There is no schema {database.schema}.", "Correct old= in Migration(...), or the DSN.")
    wanted = ("USAGE",) if subject.side == "source" else ("USAGE", "CREATE")
    lacking = listed(each for each in wanted if each in database.lacking_on_schema)
    if not lacking:
        return passed(f"{database.schema} is there")
    return failed(
        f"The role {database.role} lacks {lacking} on the schema {database.schema}.",
        f"GRANT {lacking} ON SCHEMA {database.schema} TO {database.role};",
    )


def control_tables(subject: DatabaseSubject) -> Verdict:
    """The engine's own tables hold one migration, and are changed by whoever runs it."""
    database = subject.database
    if database.taken is not None:
        return failed(database.taken, "The control tables need that name. Rename it: `ALTER SCHEMA ... RENAME TO ...;`")
    if subject.control not in (None, subject.migration) and subject.renamed:
        return failed(
            f"The migration {subject.control} is over, and its control tables still say which tables it has renamed.",
            # The first is refused as long as anything of others hangs on these; on what is in the second nothing can.
            "When its old tables are gone (`replicator cleanup`) and nothing asks replicator.active_schema() any more:",
            "DROP FUNCTION replicator.active_schema(), replicator.use_new_schema();",
            "DROP SCHEMA _replicator CASCADE;",
        )
    if subject.control not in (None, subject.migration):
        return failed(
            f"The database {database.name} is in the middle of the migration {subject.control}.",
            "Finish that one before you start another.",
        )
    return passed("of this migration" if subject.control else "none there yet")


def publication(subject: DatabaseSubject) -> Verdict | None:
    """One that we have not made may leave out tables or kinds of changes; it is never taken over, and never dropped."""
    if not subject.published:
        return None
    taken = subject.database.foreign_publications
    if not taken:
        return passed("no other one bears our name")
    return failed(
        f"There are publications that this migration has not made: {listed(taken)}.",
        "Set REPLICATOR_PUBLICATION to another name; or, if nobody needs them:",
        *[f"DROP PUBLICATION {name};" for name in taken],
    )


FACTS: tuple[Fact[DatabaseSubject], ...] = (
    Fact(encoding, Consequence.SHUT),
    Fact(privileges, Consequence.SHUT),
    Fact(control_tables, Consequence.SHUT),
    Fact(own_role, Consequence.TELL),
    Fact(casts, Consequence.SHUT),
    Fact(publication, Consequence.SHUT),
)
"""Of a database, whatever its schemas."""

SCHEMA: tuple[Fact[DatabaseSubject], ...] = (Fact(schema, Consequence.SHUT),)
"""Of one schema of it."""
